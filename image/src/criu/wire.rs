//! Image files and their messages at the wire level.
//!
//! A file is a common magic, a magic of its own, and entries: a length and a
//! protobuf message of that many bytes (<https://criu.org/Images>). Messages are
//! read where they lie and never decoded as a whole, so that what nobody here
//! knows of, a newer CRIU's fields included, is copied byte for byte.
//!
//! Nothing recurses, and nothing is allocated for what an image claims: every
//! length is checked against the bytes that are there.

use crate::Error;
use std::ops::Range;

/// In front of every image file but the inventory's.
const COMMON: u32 = 0x5456_4319;

/// What kind of image a file is, by its second word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Magic(pub u32);

impl Magic {
    pub const INVENTORY: Magic = Magic(0x5831_3116);
    pub const PSTREE: Magic = Magic(0x5027_3030);
    pub const IDS: Magic = Magic(0x5443_2030);
    pub const CORE: Magic = Magic(0x5505_3847);
    pub const FILES: Magic = Magic(0x5630_3138);
    pub const FDINFO: Magic = Magic(0x5621_3732);
    pub const FILE_LOCKS: Magic = Magic(0x5432_3616);
    pub const SK_QUEUES: Magic = Magic(0x5626_4026);
    pub const MM: Magic = Magic(0x5749_2820);
    pub const FS: Magic = Magic(0x5140_3912);
    pub const PIPES_DATA: Magic = Magic(0x5645_3709);
    pub const FIFO_DATA: Magic = Magic(0x5933_3054);
    pub const TTY_INFO: Magic = Magic(0x5945_3036);
    pub const TCP_STREAM: Magic = Magic(0x5146_5506);

    /// The first bytes of a file of this kind.
    pub fn head(self) -> Vec<u8> {
        let mut head = Vec::with_capacity(8);
        if self != Magic::INVENTORY {
            head.extend_from_slice(&COMMON.to_le_bytes());
        }
        head.extend_from_slice(&self.0.to_le_bytes());
        head
    }
}

/// A file of the image, being read.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
}

impl<'a> File<'a> {
    /// An error at an offset of this file.
    pub fn error(&self, offset: usize, reason: impl Into<String>) -> Error {
        Error::Image {
            file: self.name.to_owned(),
            offset: offset as u64,
            reason: reason.into(),
        }
    }

    /// The entries of a file of this kind.
    ///
    /// # Errors
    /// Another magic.
    pub fn entries(self, magic: Magic) -> Result<Entries<'a>, Error> {
        let head = magic.head();
        if !self.bytes.starts_with(&head) {
            let word = |at: usize| {
                let bytes = self.bytes.get(at..at + 4)?;
                Some(u32::from_le_bytes(bytes.try_into().ok()?))
            };
            let found = match (word(0), word(4)) {
                (Some(first), Some(second)) => format!("{first:#010x} {second:#010x}"),
                _ => "the end of the file".to_owned(),
            };
            return Err(self.error(
                0,
                format!("not a CRIU image of this kind: its magic is {found}"),
            ));
        }
        Ok(Entries {
            file: self,
            at: head.len(),
        })
    }

    /// The one entry of a file of this kind.
    ///
    /// # Errors
    /// Another magic, or no entry.
    pub fn entry(self, magic: Magic) -> Result<Entry<'a>, Error> {
        match self.entries(magic)?.next() {
            Some(entry) => entry,
            None => Err(self.error(self.bytes.len(), "the file ends before its entry")),
        }
    }
}

/// One entry of a file.
pub(super) struct Entry<'a> {
    /// Where it lies in the file, its length word included.
    pub span: Range<usize>,
    pub message: Message<'a>,
}

/// The entries of a file, one after the other; nothing after an error.
pub(super) struct Entries<'a> {
    file: File<'a>,
    at: usize,
}

impl Entries<'_> {
    /// Passes over bytes that follow an entry and belong to it.
    ///
    /// # Errors
    /// There are fewer.
    pub fn skip_data(&mut self, count: u64) -> Result<(), Error> {
        let there = (self.file.bytes.len() - self.at) as u64;
        if count > there {
            return Err(self.file.error(
                self.at,
                format!("{count} bytes of data announced, {there} are there"),
            ));
        }
        self.at += count as usize;
        Ok(())
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.file.bytes;
        let start = self.at;
        if start == bytes.len() {
            return None;
        }
        self.at = bytes.len();
        let Some(length) = bytes.get(start..start + 4) else {
            return Some(Err(self
                .file
                .error(start, "the file ends inside an entry's length")));
        };
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let body = start + 4;
        let there = bytes.len() - body;
        if length > there {
            return Some(Err(self.file.error(
                start,
                format!("an entry of {length} bytes announced, {there} are there"),
            )));
        }
        self.at = body + length;
        Some(Ok(Entry {
            span: start..self.at,
            message: Message {
                file: self.file,
                span: body..self.at,
            },
        }))
    }
}

/// A protobuf message inside a file.
#[derive(Clone)]
pub(super) struct Message<'a> {
    file: File<'a>,
    span: Range<usize>,
}

/// One field of a message.
pub(super) struct Field<'a> {
    pub number: u32,
    value: Value<'a>,
    at: usize,
    file: File<'a>,
}

enum Value<'a> {
    Varint(u64),
    Bytes(Message<'a>),
    /// Of a fixed width; no field of that kind is of interest here.
    Fixed,
}

impl<'a> Message<'a> {
    /// Its fields in the order in which they stand; nothing after an error.
    pub fn fields(&self) -> Fields<'a> {
        Fields {
            file: self.file,
            at: self.span.start,
            end: self.span.end,
        }
    }

    /// Its bytes as they are.
    pub fn bytes(&self) -> &'a [u8] {
        &self.file.bytes[self.span.clone()]
    }

    /// An error at its beginning.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        self.file.error(self.span.start, reason)
    }

    /// The fields 1 to N, each at its number less one. Where one stands twice the
    /// last counts, as in protobuf.
    ///
    /// # Errors
    /// A malformed message.
    pub fn last<const N: usize>(&self) -> Result<[Option<Field<'a>>; N], Error> {
        let mut last = [const { None }; N];
        for field in self.fields() {
            let field = field?;
            let slot = (field.number as usize).checked_sub(1);
            if let Some(slot) = slot.and_then(|slot| last.get_mut(slot)) {
                *slot = Some(field);
            }
        }
        Ok(last)
    }

    /// As [`Message::last`], where all of them are integers.
    ///
    /// # Errors
    /// A malformed message.
    pub fn numbers<const N: usize>(&self) -> Result<[Option<u32>; N], Error> {
        let mut numbers = [None; N];
        for (number, field) in numbers.iter_mut().zip(self.last::<N>()?) {
            if let Some(Field {
                value: Value::Varint(value),
                ..
            }) = field
            {
                *number = Some(value as u32);
            }
        }
        Ok(numbers)
    }
}

impl<'a> Field<'a> {
    fn mistyped(&self) -> Error {
        self.file.error(
            self.at,
            format!("field {} is of another type than it must be", self.number),
        )
    }

    /// # Errors
    /// It is not an integer.
    pub fn u64(&self) -> Result<u64, Error> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.mistyped()),
        }
    }

    /// Cut to 32 bits, as protobuf does.
    ///
    /// # Errors
    /// It is not an integer.
    pub fn u32(&self) -> Result<u32, Error> {
        self.u64().map(|value| value as u32)
    }

    /// # Errors
    /// It is not a message or string.
    pub fn message(&self) -> Result<Message<'a>, Error> {
        match &self.value {
            Value::Bytes(message) => Ok(message.clone()),
            _ => Err(self.mistyped()),
        }
    }

    /// A repeated integer: one of them, or all in one packed field.
    ///
    /// # Errors
    /// It is neither.
    pub fn append_to(&self, list: &mut Vec<u32>) -> Result<(), Error> {
        match &self.value {
            Value::Varint(value) => list.push(*value as u32),
            Value::Bytes(packed) => {
                let mut at = packed.span.start;
                while at < packed.span.end {
                    let (value, next) = varint(packed.file, at, packed.span.end)?;
                    list.push(value as u32);
                    at = next;
                }
            }
            Value::Fixed => return Err(self.mistyped()),
        }
        Ok(())
    }
}

/// The fields of a message.
pub(super) struct Fields<'a> {
    file: File<'a>,
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    fn field(&self) -> Result<(Field<'a>, usize), Error> {
        let at = self.at;
        let (key, body) = varint(self.file, at, self.end)?;
        let number = u32::try_from(key >> 3).unwrap_or(u32::MAX);
        if !(1..1 << 29).contains(&number) {
            return Err(self.file.error(at, "a field without a valid number"));
        }
        let sized = |count: u64, from: usize| {
            let there = (self.end - from) as u64;
            if count > there {
                return Err(self.file.error(
                    at,
                    format!(
                        "field {number} of {count} bytes in a message that has {there} more bytes"
                    ),
                ));
            }
            Ok(from + count as usize)
        };
        let (value, next) = match key & 7 {
            0 => {
                let (value, next) = varint(self.file, body, self.end)?;
                (Value::Varint(value), next)
            }
            1 => (Value::Fixed, sized(8, body)?),
            2 => {
                let (count, from) = varint(self.file, body, self.end)?;
                let next = sized(count, from)?;
                let message = Message {
                    file: self.file,
                    span: from..next,
                };
                (Value::Bytes(message), next)
            }
            5 => (Value::Fixed, sized(4, body)?),
            _ => {
                return Err(self
                    .file
                    .error(at, format!("field {number} of an unknown wire type")));
            }
        };
        let field = Field {
            number,
            value,
            at,
            file: self.file,
        };
        Ok((field, next))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        match self.field() {
            Ok((field, next)) => {
                self.at = next;
                Some(Ok(field))
            }
            Err(error) => {
                self.at = self.end;
                Some(Err(error))
            }
        }
    }
}

fn varint(file: File<'_>, at: usize, end: usize) -> Result<(u64, usize), Error> {
    let mut value = 0u64;
    for (index, &byte) in file.bytes[at..end].iter().take(10).enumerate() {
        if index == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, at + index + 1));
        }
    }
    Err(file.error(at, "an integer that does not end"))
}

/// A message being written.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn number(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    pub fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn message(self, field: u32, message: Writer) -> Self {
        self.bytes(field, &message.0)
    }

    /// Appends it to a file as an entry.
    pub fn entry(self, file: &mut Vec<u8>) {
        let length = u32::try_from(self.0.len()).expect("entries made here are short");
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> Message<'_> {
        Message {
            file: File {
                name: "test.img",
                bytes,
            },
            span: 0..bytes.len(),
        }
    }

    fn reason(bytes: &[u8]) -> String {
        message(bytes)
            .fields()
            .find_map(Result::err)
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn integers_are_read_as_protobuf_writes_them() {
        let mut minus_one = vec![0x08];
        minus_one.extend([0xff; 9]);
        minus_one.push(1);
        let values = |bytes: &[u8]| message(bytes).numbers::<1>().map(|[n]| n);
        assert_eq!(values(&minus_one), Ok(Some(u32::MAX)));
        assert_eq!(values(&[0x08, 0x96, 0x01]), Ok(Some(150)));
        assert_eq!(values(&[0x08, 1, 0x08, 2]), Ok(Some(2)));
    }

    #[test]
    fn what_cannot_be_a_message_is_refused_with_its_offset() {
        assert!(reason(&[0x08]).contains("offset 1: an integer that does not end"));
        assert!(reason(&[0x08, 0xff, 0xff]).contains("does not end"));
        let mut long = vec![0x08];
        long.extend([0xff; 9]);
        long.push(2);
        assert!(reason(&long).contains("does not end"));
        assert!(reason(&[0x00, 0x00]).contains("without a valid number"));
        assert!(reason(&[0x0b]).contains("unknown wire type"));
        assert!(reason(&[0x0a, 0x7f, 0]).contains("offset 0: field 1 of 127 bytes"));
        assert!(reason(&[0x09, 0, 0]).contains("field 1 of 8 bytes"));
    }

    #[test]
    fn packed_and_separate_lists_are_the_same() {
        let list = |bytes: &[u8]| {
            let mut list = Vec::new();
            for field in message(bytes).fields() {
                field.and_then(|f| f.append_to(&mut list)).expect("a list");
            }
            list
        };
        assert_eq!(list(&[0x0a, 3, 1, 0x96, 1]), [1, 150]);
        assert_eq!(list(&[0x08, 1, 0x08, 0x96, 1]), [1, 150]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut bytes = Magic::FDINFO.head();
        bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0x7f, 0]);
        let file = File {
            name: "fdinfo-2.img",
            bytes: &bytes,
        };
        let mut entries = file.entries(Magic::FDINFO).expect("the magic is right");
        let error = entries.next().and_then(Result::err).expect("no such entry");
        assert_eq!(
            error.to_string(),
            "image: fdinfo-2.img: offset 8: an entry of 2147483647 bytes announced, 1 are there"
        );
        assert!(entries.next().is_none());
        assert!(file.entries(Magic::FILES).is_err());
    }
}
