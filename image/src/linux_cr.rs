//! Linux-CR images: one byte stream, which the restart system call reads.
//!
//! * [`layout`]: record numbers and lengths, version by version. Another
//!   version is another table there.
//! * [`forms`]: what each record is called, how long it is, to what it refers.
//! * [`records`]: cuts the stream into records and recognises its version.
//! * [`survey`]: what the records say of tasks, file tables and open file
//!   descriptions.
//! * [`soundness`]: whether an image is what it says it is; `spine`, `fields` and `sockets`
//!   are the parts of it for tasks, single fields, and sockets with their queues.
//! * [`rewrite`]: carries a plan out in one pass.
//! * [`delivery`]: what the kernel needs of the descriptor that it reads.
//!
//! The format is that of the C/R patches for Linux 2.6.33 (v20, March 2010) and
//! of the later headers of the user-cr tools; facts about it were checked
//! against images that such a kernel wrote.

pub mod delivery;
mod fields;
pub mod forms;
pub mod layout;
mod listing;
mod needs;
pub mod records;
pub mod rewrite;
mod sockets;
pub mod soundness;
mod spine;
pub mod survey;

pub use layout::Layout;
pub use rewrite::Rewriter;
pub use survey::Survey;

/// The first bytes of every image: type 1, length 72, in either byte order.
/// Enough to tell that a program reads one before the magic number has come.
pub fn begins_like_an_image(bytes: &[u8]) -> bool {
    let (Some(prefix), rest) = (bytes.get(..8), bytes.get(8..16)) else {
        return false;
    };
    let little = prefix == [1, 0, 0, 0, 72, 0, 0, 0]
        && rest.is_none_or(|magic| magic == layout::MAGIC.to_le_bytes());
    let big = prefix == [0, 0, 0, 1, 0, 0, 0, 72]
        && rest.is_none_or(|magic| magic == layout::MAGIC.to_be_bytes());
    little || big
}
