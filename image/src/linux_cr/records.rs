//! Cuts the stream into records, and recognises its version.
//!
//! Nothing is held back but the record that is being put together, and only
//! where somebody wants it whole: memory pages pass through.

use super::forms;
use super::layout::{self, Layout, MAGIC, Order, PREFIX, TAIL_MAGIC, Version, fixed};
use crate::Error;

/// The raw page after a socket buffer's fragment.
const PAGE: u64 = 4096;

/// A record's prefix, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// What it is.
    pub kind: u32,
    /// Bytes, the prefix included.
    pub len: u32,
    /// Bytes before it in the stream.
    pub offset: u64,
}

impl Prefix {
    /// An error at this record.
    ///
    /// * `version`: of the image, once it has told.
    pub fn error(&self, version: Option<&Version>, reason: impl std::fmt::Display) -> Error {
        let name = forms::name(self.kind, version);
        Error::stream(self.offset, format!("{name}, {} bytes: {reason}", self.len))
    }
}

/// A whole record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its prefix.
    pub prefix: Prefix,
    /// All of it, the prefix included.
    pub bytes: &'a [u8],
    /// Byte order.
    pub order: Order,
    /// Of the image, once it has told.
    pub version: Option<&'static Version>,
}

impl Record<'_> {
    /// The 32-bit field at an offset from the record's start.
    ///
    /// # Errors
    /// [`Error::Image`] where the record is too short for it.
    pub fn u32(&self, at: usize) -> Result<u32, Error> {
        self.field(at).map(|bytes| self.order.u32(bytes))
    }

    /// As [`Record::u32`], signed.
    ///
    /// # Errors
    /// As for [`Record::u32`].
    pub fn i32(&self, at: usize) -> Result<i32, Error> {
        self.u32(at).map(u32::cast_signed)
    }

    /// The byte at an offset.
    ///
    /// # Errors
    /// As for [`Record::u32`].
    pub fn u8(&self, at: usize) -> Result<u8, Error> {
        self.field(at).map(|[byte]: [u8; 1]| byte)
    }

    /// The 16-bit field at an offset.
    ///
    /// # Errors
    /// As for [`Record::u32`].
    pub fn u16(&self, at: usize) -> Result<u16, Error> {
        self.field(at).map(|bytes| self.order.u16(bytes))
    }

    /// The 64-bit field at an offset.
    ///
    /// # Errors
    /// As for [`Record::u32`].
    pub fn u64(&self, at: usize) -> Result<u64, Error> {
        self.field(at).map(|bytes| self.order.u64(bytes))
    }

    /// The bytes at an offset.
    ///
    /// # Errors
    /// As for [`Record::u32`].
    pub fn field<const N: usize>(&self, at: usize) -> Result<[u8; N], Error> {
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or_else(|| self.error(format!("too short: no field at {at}")))
    }

    /// Demands a length.
    ///
    /// # Errors
    /// [`Error::Image`] where it has another.
    pub fn demand_len(&self, len: u32) -> Result<(), Error> {
        if self.prefix.len == len {
            return Ok(());
        }
        Err(self.error(format!("expected {len} bytes")))
    }

    /// What stands before the first NUL of the payload.
    pub fn string(&self) -> &[u8] {
        let payload = self.bytes.get(PREFIX..).unwrap_or_default();
        payload.split(|&b| b == 0).next().unwrap_or_default()
    }

    /// An error at this record.
    pub fn error(&self, reason: impl std::fmt::Display) -> Error {
        self.prefix.error(self.version, reason)
    }
}

/// Where the records go.
pub trait Sink {
    /// Whether a record is wanted whole; otherwise its bytes are passed.
    ///
    /// # Errors
    /// The sink's; it ends the stream.
    fn wants(&mut self, prefix: Prefix, layout: Option<&Layout>) -> Result<bool, Error>;
    /// A whole record.
    ///
    /// # Errors
    /// The sink's; it ends the stream.
    fn record(&mut self, record: Record<'_>, layout: Option<&Layout>) -> Result<(), Error>;
    /// Bytes of records that are not wanted, in order.
    fn pass(&mut self, bytes: &[u8]);
}

/// Where in the stream we are.
enum At {
    /// A prefix is being put together.
    Prefix,
    /// A whole record is.
    Whole(Prefix),
    /// So many bytes pass.
    Passing(u64),
    /// After TAIL: whatever comes is nobody's, and passes.
    Trailing,
}

/// How far the head has been read.
enum Head {
    /// The header comes next.
    Header,
    /// So many records of the head come before the one that settles the
    /// version.
    Strings { revision: u16, left: u8 },
    /// The version is settled, but for v21 and v22, which TASK tells apart.
    Settled,
}

/// Cuts a stream into records.
pub struct Splitter {
    at: At,
    head: Head,
    buffer: Vec<u8>,
    offset: u64,
    order: Order,
    arch: u16,
    kernel: (u16, u16, u16),
    layout: Option<Layout>,
}

impl Default for Splitter {
    fn default() -> Self {
        Splitter {
            at: At::Prefix,
            head: Head::Header,
            buffer: Vec::new(),
            offset: 0,
            order: Order::Little,
            arch: 0,
            kernel: (0, 0, 0),
            layout: None,
        }
    }
}

impl Splitter {
    /// The layout, once the head has been read.
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    fn version(&self) -> Option<&'static Version> {
        self.layout.map(|layout| layout.version)
    }

    /// Takes more of the stream.
    ///
    /// # Errors
    /// [`Error::Image`], with offset and reason; the sink's own.
    pub fn feed(&mut self, mut input: &[u8], sink: &mut dyn Sink) -> Result<(), Error> {
        while !input.is_empty() {
            match self.at {
                At::Prefix => {
                    let taken = self.gather(input, PREFIX);
                    input = &input[taken..];
                    if self.buffer.len() == PREFIX {
                        self.prefix(sink)?;
                    }
                }
                At::Whole(prefix) => {
                    let taken = self.gather(input, prefix.len as usize);
                    input = &input[taken..];
                    self.whole(prefix, sink)?;
                }
                At::Passing(left) => {
                    let taken = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    sink.pass(&input[..taken]);
                    input = &input[taken..];
                    self.passed(taken as u64);
                }
                At::Trailing => {
                    sink.pass(input);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Bytes that come next and that nobody looks at; whoever moves them in
    /// another way than through [`Splitter::feed`] tells [`Splitter::passed`].
    pub fn passing(&self) -> u64 {
        match self.at {
            At::Passing(left) => left,
            At::Trailing => u64::MAX,
            _ => 0,
        }
    }

    /// Whether the last record has been read; what may follow is nobody's.
    pub fn is_complete(&self) -> bool {
        matches!(self.at, At::Trailing)
    }

    /// So many of the bytes of [`Splitter::passing`] went by.
    pub fn passed(&mut self, bytes: u64) {
        if let At::Passing(left) = self.at {
            self.offset = self.offset.saturating_add(bytes);
            let left = left.saturating_sub(bytes);
            self.at = if left == 0 {
                At::Prefix
            } else {
                At::Passing(left)
            };
        }
    }

    /// Bytes of the stream that were read or went by.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where bytes pass, lets so many pass instead, whatever is in them: up to the
    /// beginning of a record.
    pub fn pass_on(&mut self, bytes: u64) -> bool {
        let passes = matches!(self.at, At::Passing(_));
        if passes {
            self.at = At::Passing(bytes);
        }
        passes
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`Error::Image`] where it ends before the TAIL record.
    pub fn finish(&self) -> Result<(), Error> {
        let reason = match (&self.at, self.buffer.is_empty()) {
            (At::Trailing, _) => return Ok(()),
            (At::Prefix, true) if self.offset == 0 => "it is empty".to_owned(),
            (At::Prefix, true) => {
                "it ends without its last record: the checkpoint broke off, or a part is missing"
                    .to_owned()
            }
            (At::Whole(prefix), _) => format!(
                "it ends inside a {}, {} bytes",
                forms::name(prefix.kind, self.version()),
                prefix.len
            ),
            _ => "it ends inside a record".to_owned(),
        };
        Err(Error::stream(self.offset, reason))
    }

    fn gather(&mut self, input: &[u8], whole: usize) -> usize {
        let taken = input.len().min(whole.saturating_sub(self.buffer.len()));
        self.buffer.extend_from_slice(&input[..taken]);
        taken
    }

    fn prefix(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        if matches!(self.head, Head::Header) {
            self.order = match self.buffer[..4] {
                [0, 0, 0, 1] => Order::Big,
                _ => Order::Little,
            };
        }
        let number = |at: usize| self.order.u32([0, 1, 2, 3].map(|i| self.buffer[at + i]));
        let prefix = Prefix {
            kind: number(0),
            len: number(4),
            offset: self.offset,
        };
        self.check(prefix)?;
        let head = !matches!(self.head, Head::Settled) && prefix.len <= 4096;
        let wanted = sink.wants(prefix, self.layout.as_ref())?;
        if head || self.layout.is_none() || wanted || self.matters(prefix) {
            if prefix.len > forms::LONGEST_WHOLE {
                return Err(prefix.error(self.version(), "more than it can have"));
            }
            self.at = At::Whole(prefix);
            if prefix.len as usize == PREFIX {
                return self.whole(prefix, sink);
            }
            return Ok(());
        }
        sink.pass(&self.buffer);
        self.buffer.clear();
        self.offset += PREFIX as u64;
        self.pass_rest(prefix);
        Ok(())
    }

    /// Records that tell the version, or end the stream.
    fn matters(&self, prefix: Prefix) -> bool {
        let task = self.layout.is_some_and(|l| l.version.task == prefix.kind);
        task || matches!(prefix.kind, fixed::TAIL | fixed::ERROR)
    }

    fn pass_rest(&mut self, prefix: Prefix) {
        let rest = u64::from(prefix.len) - PREFIX as u64 + self.raw_after(prefix);
        self.at = if rest == 0 {
            At::Prefix
        } else {
            At::Passing(rest)
        };
    }

    fn raw_after(&self, prefix: Prefix) -> u64 {
        let fragment = self.layout.and_then(|l| l.version.fragment);
        if fragment == Some(prefix.kind) && prefix.len == 16 {
            PAGE
        } else {
            0
        }
    }

    fn check(&self, prefix: Prefix) -> Result<(), Error> {
        let Prefix { kind, len, offset } = prefix;
        if matches!(self.head, Head::Header) && (kind != fixed::HEADER || len != 72) {
            return Err(Error::stream(offset, "this is no Linux-CR image"));
        }
        if (len as usize) < PREFIX || len > i32::MAX as u32 {
            return Err(prefix.error(self.version(), "no record is so long or so short"));
        }
        if matches!(kind, fixed::STRING | fixed::FILE_NAME) && len as usize == PREFIX {
            let reason = "without a text, which would crash the kernel";
            return Err(prefix.error(self.version(), reason));
        }
        Ok(())
    }

    fn whole(&mut self, prefix: Prefix, sink: &mut dyn Sink) -> Result<(), Error> {
        if self.buffer.len() < prefix.len as usize {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let record = Record {
            prefix,
            bytes: &buffer,
            order: self.order,
            version: self.version(),
        };
        self.read_head(&record)?;
        sink.record(record, self.layout.as_ref())?;
        self.offset += u64::from(prefix.len);
        self.at = match self.raw_after(prefix) {
            _ if prefix.kind == fixed::TAIL => At::Trailing,
            0 => At::Prefix,
            raw => At::Passing(raw),
        };
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn read_head(&mut self, record: &Record<'_>) -> Result<(), Error> {
        if record.prefix.kind == fixed::ERROR {
            return Err(record.error("the checkpoint failed and left an error in its place"));
        }
        match self.head {
            Head::Header => {
                if record.u64(8)? != MAGIC {
                    return Err(record.error("this is no Linux-CR image: wrong magic number"));
                }
                // arch_id is little-endian on every machine.
                self.arch = u16::from_le_bytes([record.bytes[16], record.bytes[17]]);
                self.kernel = (record.u16(18)?, record.u16(20)?, record.u16(22)?);
                let revision = record.u16(24)?;
                let left = if revision >= 4 { 7 } else { 5 };
                self.head = Head::Strings { revision, left };
            }
            Head::Strings { revision, left } if left > 0 => {
                self.head = Head::Strings {
                    revision,
                    left: left - 1,
                };
                let expected = match left + u8::from(revision < 4) * 2 {
                    5..=7 => fixed::BUFFER,
                    4 => fixed::HEADER_ARCH,
                    3 => fixed::CONTAINER,
                    2 => fixed::BUFFER,
                    _ => fixed::LSM_INFO,
                };
                if record.prefix.kind != expected {
                    let expected = forms::name(expected, None);
                    return Err(record.error(format!("expected a {expected}")));
                }
            }
            Head::Strings { revision, .. } => {
                let version = settle(revision, record)?;
                self.set_layout(version);
                self.head = Head::Settled;
            }
            Head::Settled => {
                let Some(layout) = self.layout else {
                    return Ok(());
                };
                let task = record.prefix.kind == layout.version.task;
                if task && layout.version == &layout::V21_TO_V23_RC1 {
                    self.set_layout(match record.prefix.len {
                        80 => &layout::V23_RC1,
                        _ => &layout::V21,
                    });
                }
            }
        }
        if record.prefix.kind == fixed::TAIL && record.u64(8)? != TAIL_MAGIC {
            return Err(record.error("wrong magic number at the end"));
        }
        Ok(())
    }

    fn set_layout(&mut self, version: &'static Version) {
        let arch = usize::from(self.arch)
            .checked_sub(1)
            .and_then(|index| version.archs.get(index).copied());
        self.layout = Some(Layout {
            version,
            arch,
            order: self.order,
            kernel: self.kernel,
        });
    }
}

/// The version, from the revision and the record that follows the container.
fn settle(revision: u16, record: &Record<'_>) -> Result<&'static Version, Error> {
    let Prefix { kind, len, .. } = record.prefix;
    match (revision, kind, len) {
        (..=3, 101, 16) => Ok(&layout::V18),
        (4, 101, 16) => Ok(&layout::V19_RC2),
        (5, 101, 16) => Ok(&layout::V20),
        (6, 101, 24) => Ok(&layout::V23_RC2),
        (6, 101, 16) => Ok(&layout::V21_TO_V23_RC1),
        _ => Err(record.error(format!(
            "expected the task tree of an image of revision {revision}"
        ))),
    }
}
