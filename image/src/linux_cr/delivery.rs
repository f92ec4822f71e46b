//! How an image has to reach the kernel, so that what was in its pipes arrives.
//!
//! The kernel moves the contents of a pipe out of the image into the new pipe in one
//! go, page by page, and fails where it does not get all of them. So it matters where
//! the image is:
//!
//! * in a *pipe*, the record must be in it as a whole when its turn comes: it is
//!   written in one piece, and into an empty pipe. Its prefix shares a page with its
//!   contents, so the last 8 bytes of a full pipe do not fit;
//! * in a *regular file*, a full pipe fits where its contents begin with a page of the
//!   file: the announcement in front of it is lengthened, whose surplus the kernel
//!   reads and drops.

use super::layout::{Layout, PREFIX, fixed};
use super::records::{Prefix, Record, Sink, Splitter};
use crate::Error;

/// What a new pipe holds, in bytes.
pub const PIPE: u32 = 64 << 10;
/// What of a pipe fits through a pipe, in bytes.
pub const THROUGH_A_PIPE: u32 = PIPE - PREFIX as u32;

const PAGE: u64 = 4096;
/// Records that are looked at; others have nothing to do with pipes.
const SMALL: u32 = 8 << 10;
/// What stands between an announcement and the contents of a pipe is less.
const NEAR: usize = 16 << 10;

/// Where the kernel reads the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A pipe.
    Pipe,
    /// A regular file, from its beginning.
    File,
}

/// A rewritten image on its way into a medium.
pub struct Delivery {
    splitter: Splitter,
    state: State,
}

struct State {
    medium: Medium,
    out: Vec<u8>,
    cuts: Vec<usize>,
    /// Bytes that went out before those in `out`.
    before: u64,
    /// The last announcement, and what has followed it.
    held: Vec<u8>,
}

impl Delivery {
    /// For the image from its first byte.
    pub fn new(medium: Medium) -> Self {
        Delivery {
            splitter: Splitter::default(),
            state: State {
                medium,
                out: Vec::new(),
                cuts: Vec::new(),
                before: 0,
                held: Vec::new(),
            },
        }
    }

    /// Takes more of the image.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a pipe that the medium cannot deliver;
    /// [`Error::Image`].
    pub fn feed(&mut self, input: &[u8]) -> Result<(), Error> {
        self.splitter.feed(input, &mut self.state)?;
        if self.splitter.passing() > 0 {
            self.state.let_go();
        }
        Ok(())
    }

    /// What goes out next, and where in it contents of pipes begin: what is in front
    /// of such a place must have been read before what is behind it is written.
    pub fn output(&self) -> (&[u8], &[usize]) {
        (&self.state.out, &self.state.cuts)
    }

    /// All of it went out.
    pub fn taken(&mut self) {
        let state = &mut self.state;
        state.before += state.out.len() as u64;
        state.out.clear();
        state.cuts.clear();
    }

    /// So many bytes that nobody looks at (see [`Splitter::passing`]) went by, behind
    /// all that was taken.
    pub fn passed(&mut self, bytes: u64) {
        self.splitter.passed(bytes);
        self.state.before += bytes;
    }

    /// Where nobody looks at what comes next, so for that many bytes, up to the
    /// beginning of a record; false where somebody does.
    pub fn settle(&mut self, bytes: u64) -> bool {
        self.splitter.pass_on(bytes)
    }
}

impl State {
    fn let_go(&mut self) {
        self.out.append(&mut self.held);
    }

    /// Lengthens the announcement, so that contents which come next begin with a page.
    fn align(&mut self, record: &Record<'_>) -> Result<(), Error> {
        let at = self.before + (self.out.len() + self.held.len() + PREFIX) as u64;
        let into = at % PAGE;
        let contents = u64::from(record.prefix.len) - PREFIX as u64;
        if into + contents <= u64::from(PIPE) {
            return Ok(());
        }
        let announced = self.held.get(4..).and_then(|rest| rest.first_chunk());
        let Some(end) = announced.map(|bytes| record.order.u32(*bytes)) else {
            return Err(record.error("the contents of a pipe far from its announcement"));
        };
        let padding = PAGE - into;
        let new = record.order.bytes(end + padding as u32);
        self.held[4..8].copy_from_slice(&new);
        let end = end as usize;
        self.held
            .splice(end..end, std::iter::repeat_n(0, padding as usize));
        Ok(())
    }
}

impl Sink for State {
    fn wants(&mut self, prefix: Prefix, _: Option<&Layout>) -> Result<bool, Error> {
        Ok(prefix.len <= SMALL || prefix.kind == fixed::PIPE_BUF)
    }

    fn record(&mut self, record: Record<'_>, _: Option<&Layout>) -> Result<(), Error> {
        let kind = record.prefix.kind;
        if kind == fixed::PIPE_BUF && record.bytes.len() > PREFIX {
            let contents = record.prefix.len - PREFIX as u32;
            if contents > PIPE {
                return Err(Error::unsupported(
                    format!("image: a pipe with {contents} bytes in it"),
                    format!(
                        "a new pipe holds {PIPE}, and the kernel would not restart it: ignore both \
                         ends of it, or read from it before the checkpoint"
                    ),
                ));
            }
            match self.medium {
                Medium::Pipe if contents > THROUGH_A_PIPE => {
                    return Err(Error::unsupported(
                        format!("image: a pipe with {contents} bytes in it"),
                        format!(
                            "no more than {THROUGH_A_PIPE} pass where the image itself comes \
                             through a pipe: give the restart program the image as a file, or \
                             ignore both ends of it"
                        ),
                    ));
                }
                Medium::Pipe => {
                    self.let_go();
                    self.cuts.push(self.out.len());
                }
                Medium::File => self.align(&record)?,
            }
        }
        if kind == fixed::OBJREF || kind == fixed::PIPE_BUF || self.held.len() > NEAR {
            self.let_go();
        }
        let near = kind == fixed::OBJREF || !self.held.is_empty();
        match near && self.medium == Medium::File {
            true => self.held.extend_from_slice(record.bytes),
            false => self.out.extend_from_slice(record.bytes),
        }
        if kind == fixed::TAIL {
            self.let_go();
        }
        Ok(())
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.let_go();
        self.out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() + PREFIX) as u32;
        [&kind.to_le_bytes()[..], &length.to_le_bytes(), payload].concat()
    }

    /// Announced pipes with so many bytes in them, and a page after each.
    fn image(pipes: &[usize]) -> Vec<u8> {
        let mut header = vec![0; 64];
        header[..8].copy_from_slice(&crate::linux_cr::layout::MAGIC.to_le_bytes());
        header[8] = 2; // x86_64
        header[16] = 5; // v20
        let mut image = record(fixed::HEADER, &header);
        for kind in [4, 4, 4, fixed::HEADER_ARCH, fixed::CONTAINER, 4, 7] {
            image.extend(record(kind, &[0; 8]));
        }
        image.extend(record(101, &[1, 0, 0, 0, 0, 0, 0, 0]));
        for &bytes in pipes {
            image.extend(record(fixed::OBJREF, &[3, 0, 0, 0, 9, 0, 0, 0]));
            image.extend(record(fixed::FILE, &[0; 48]));
            image.extend(record(fixed::PIPE_BUF, &vec![b'x'; bytes]));
            image.extend(record(fixed::BUFFER, &[0; 9000]));
        }
        image.extend(record(
            fixed::TAIL,
            &crate::linux_cr::layout::TAIL_MAGIC.to_le_bytes(),
        ));
        image
    }

    fn deliver(medium: Medium, image: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<usize>), Error> {
        let mut delivery = Delivery::new(medium);
        let (mut all, mut cuts) = (Vec::new(), Vec::new());
        for piece in image.chunks(piece) {
            delivery.feed(piece)?;
            let (out, at) = delivery.output();
            cuts.extend(at.iter().map(|at| all.len() + at));
            all.extend(out);
            delivery.taken();
        }
        Ok((all, cuts))
    }

    /// Where each record of pipe contents begins.
    fn contents(image: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < image.len() {
            let field = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
            if field(at) == fixed::PIPE_BUF && field(at + 4) > 8 {
                found.push(at);
            }
            at += field(at + 4) as usize;
        }
        found
    }

    #[test]
    fn through_a_pipe_it_is_cut_in_front_of_contents_and_else_the_same() {
        let image = image(&[3, 0, 60_000, 65_528]);
        for piece in [1, 7, 4096, 1 << 20] {
            let (out, cuts) = deliver(Medium::Pipe, &image, piece).unwrap();
            assert!(out == image);
            assert_eq!(cuts, contents(&image));
            assert_eq!(cuts.len(), 3);
        }
    }

    #[test]
    fn in_a_file_what_would_not_fit_begins_with_a_page() {
        let image = image(&[65_536, 3, 61_440, 65_536, 65_000]);
        for piece in [1, 7, 4096, 1 << 20] {
            let (out, cuts) = deliver(Medium::File, &image, piece).unwrap();
            assert!(cuts.is_empty());
            let starts: Vec<usize> = contents(&out).iter().map(|at| at + PREFIX).collect();
            assert_eq!(starts.len(), 5);
            for index in [0, 3] {
                assert_eq!(starts[index] % 4096, 0);
            }
            assert!(starts[4] % 4096 + 65_000 <= 65_536);
            assert!(out.len() < image.len() + 3 * 4096);
        }
        let small = super::tests::image(&[3, 60_000]);
        assert!(deliver(Medium::File, &small, 100).unwrap().0 == small);
    }

    #[test]
    fn what_cannot_be_delivered_is_refused() {
        let refusal = |medium, bytes| {
            let error = deliver(medium, &image(&[bytes]), 1 << 20).unwrap_err();
            error.to_string()
        };
        assert!(refusal(Medium::Pipe, 65_529).contains("image as a file"));
        assert!(refusal(Medium::File, 65_537).contains("a new pipe holds 65536"));
    }
}
