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
    pub const REMAPS: Magic = Magic(0x5913_3954);
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

impl<'a> File<'a> {
    /// The message of an entry that was read before.
    ///
    /// * `span`: where the entry lies, its length word included.
    pub fn message(self, span: &Range<usize>) -> Message<'a> {
        Message {
            file: self,
            span: span.start + 4..span.end,
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
    /// Gives where they end.
    ///
    /// # Errors
    /// There are fewer.
    pub fn skip_data(&mut self, count: u64) -> Result<usize, Error> {
        let there = (self.file.bytes.len() - self.at) as u64;
        if count > there {
            return Err(self.file.error(
                self.at,
                format!("{count} bytes of data announced, {there} are there"),
            ));
        }
        self.at += count as usize;
        Ok(self.at)
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
pub(super) struct Field<'m, 'a> {
    pub number: u32,
    value: Value,
    at: usize,
    end: usize,
    file: &'m File<'a>,
}

#[derive(Clone, Copy)]
enum Value {
    Varint(u64),
    /// Where they begin; they end with the field.
    Bytes(usize),
    /// Of a fixed width; no field of that kind is of interest here.
    Fixed,
}

impl<'a> Message<'a> {
    /// Its fields in the order in which they stand; nothing after an error.
    pub fn fields(&self) -> Fields<'_, 'a> {
        Fields {
            file: &self.file,
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

    /// A copy, with what `change` gives in place of a field; the fields for which
    /// it gives nothing are copied as they are.
    ///
    /// # Errors
    /// A malformed message, and those of `change`.
    pub fn edited(
        &self,
        mut change: impl FnMut(&Field<'_, 'a>) -> Result<Option<Writer>, Error>,
    ) -> Result<Writer, Error> {
        let mut copy = Writer(Vec::with_capacity(self.span.len() + 8));
        for field in self.fields() {
            let field = field?;
            match change(&field)? {
                Some(other) => copy.0.extend_from_slice(&other.0),
                None => copy
                    .0
                    .extend_from_slice(&self.file.bytes[field.at..field.end]),
            }
        }
        Ok(copy)
    }

    /// The integers among the fields 1 to N, each at its number less one. Where one
    /// stands twice the last counts, as in protobuf.
    ///
    /// # Errors
    /// A malformed message.
    pub fn numbers<const N: usize>(&self) -> Result<[Option<u32>; N], Error> {
        let mut numbers = [None; N];
        for field in self.fields() {
            let field = field?;
            if let Some(place) = numbers.get_mut(field.number as usize - 1) {
                *place = field.integer().map(|value| value as u32);
            }
        }
        Ok(numbers)
    }

    /// The last field of a number, which is a message or string.
    ///
    /// # Errors
    /// A malformed message, or a field of another type.
    pub fn message(&self, number: u32) -> Result<Option<Message<'a>>, Error> {
        let mut found = None;
        for field in self.fields() {
            let field = field?;
            if field.number == number {
                found = Some(field.message()?);
            }
        }
        Ok(found)
    }
}

impl<'a> Field<'_, 'a> {
    fn mistyped(&self) -> Error {
        self.file.error(
            self.at,
            format!("field {} is of another type than it must be", self.number),
        )
    }

    /// Its value, where it is an integer.
    pub fn integer(&self) -> Option<u64> {
        match self.value {
            Value::Varint(value) => Some(value),
            _ => None,
        }
    }

    /// Cut to 32 bits, as protobuf does.
    ///
    /// # Errors
    /// It is not an integer.
    pub fn u32(&self) -> Result<u32, Error> {
        let value = self.integer().ok_or_else(|| self.mistyped())?;
        Ok(value as u32)
    }

    /// # Errors
    /// It is not a message or string.
    pub fn message(&self) -> Result<Message<'a>, Error> {
        match self.value {
            Value::Bytes(start) => Ok(Message {
                file: *self.file,
                span: start..self.end,
            }),
            _ => Err(self.mistyped()),
        }
    }

    /// A repeated integer: one of them, or all in one packed field.
    ///
    /// # Errors
    /// It is neither.
    pub fn append_to(&self, list: &mut Vec<u32>) -> Result<(), Error> {
        match self.value {
            Value::Varint(value) => list.push(value as u32),
            Value::Bytes(mut at) => {
                let bytes = &self.file.bytes[..self.end];
                while at < self.end {
                    let Some((value, next)) = varint(bytes, at) else {
                        return Err(self.file.error(at, ENDLESS));
                    };
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
pub(super) struct Fields<'m, 'a> {
    file: &'m File<'a>,
    at: usize,
    end: usize,
}

impl<'m, 'a> Fields<'m, 'a> {
    /// The next field; `None` where there cannot be one.
    #[inline(always)]
    fn field(&self) -> Option<Field<'m, 'a>> {
        let bytes = &self.file.bytes[..self.end];
        let (key, body) = varint(bytes, self.at)?;
        let number = u32::try_from(key >> 3).ok()?;
        if !(1..1 << 29).contains(&number) {
            return None;
        }
        let sized = |count: u64, from: usize| {
            let there = (self.end - from) as u64;
            (count <= there).then(|| from + count as usize)
        };
        let (value, end) = match key & 7 {
            0 => {
                let (value, end) = varint(bytes, body)?;
                (Value::Varint(value), end)
            }
            1 => (Value::Fixed, sized(8, body)?),
            2 => {
                let (count, from) = varint(bytes, body)?;
                (Value::Bytes(from), sized(count, from)?)
            }
            5 => (Value::Fixed, sized(4, body)?),
            _ => return None,
        };
        Some(Field {
            number,
            value,
            at: self.at,
            end,
            file: self.file,
        })
    }

    /// Why there is no next field.
    #[cold]
    fn mistake(&self) -> Error {
        let bytes = &self.file.bytes[..self.end];
        let error = |at, reason: &str| self.file.error(at, reason);
        let Some((key, body)) = varint(bytes, self.at) else {
            return error(self.at, ENDLESS);
        };
        let number = key >> 3;
        if !(1..1 << 29).contains(&number) {
            return error(self.at, "a field without a valid number");
        }
        let (count, from) = match key & 7 {
            0 => return error(body, ENDLESS),
            1 => (8, body),
            2 => match varint(bytes, body) {
                Some(sized) => sized,
                None => return error(body, ENDLESS),
            },
            5 => (4, body),
            _ => return error(self.at, &format!("field {number} of an unknown wire type")),
        };
        let there = self.end - from;
        let reason =
            format!("field {number} of {count} bytes in a message that has {there} more bytes");
        error(self.at, &reason)
    }
}

impl<'m, 'a> Iterator for Fields<'m, 'a> {
    type Item = Result<Field<'m, 'a>, Error>;

    // A call costs more than the rest.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        match self.field() {
            Some(field) => {
                self.at = field.end;
                Some(Ok(field))
            }
            None => {
                let mistake = self.mistake();
                self.at = self.end;
                Some(Err(mistake))
            }
        }
    }
}

const ENDLESS: &str = "an integer that does not end";

/// An integer and where it ends.
#[inline]
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    match *bytes.get(at..)? {
        [byte, ..] if byte < 0x80 => Some((byte.into(), at + 1)),
        [low, high, ..] if high < 0x80 => {
            Some((u64::from(low & 0x7f) | u64::from(high) << 7, at + 2))
        }
        _ => long_varint(bytes, at),
    }
}

fn long_varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        if index == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, at + index + 1));
        }
    }
    None
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

    /// It as an entry of a file.
    pub fn into_entry(self) -> Vec<u8> {
        let mut entry = Vec::with_capacity(self.0.len() + 4);
        self.entry(&mut entry);
        entry
    }

    /// Appends it to a file as an entry.
    pub fn entry(self, file: &mut Vec<u8>) {
        let length = u32::try_from(self.0.len()).expect("entries made here are short");
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&self.0);
    }
}

/// What changes in a file: places, with what is to stand there instead.
#[derive(Default)]
pub(super) struct Splices(Vec<(Range<usize>, Vec<u8>)>);

impl Splices {
    pub fn remove(&mut self, span: Range<usize>) {
        self.replace(span, Vec::new());
    }

    pub fn replace(&mut self, span: Range<usize>, bytes: Vec<u8>) {
        self.0.push((span, bytes));
    }

    pub fn insert(&mut self, at: usize, bytes: Vec<u8>) {
        self.replace(at..at, bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The file with the changes, with room for `more` bytes behind.
    pub fn apply(mut self, old: &[u8], more: usize) -> Vec<u8> {
        self.0.sort_by_key(|(span, _)| (span.start, span.end));
        let added: usize = self.0.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut new = Vec::with_capacity(old.len() + added + more);
        let mut copied = 0;
        for (span, bytes) in self.0 {
            new.extend_from_slice(&old[copied..span.start]);
            new.extend_from_slice(&bytes);
            copied = span.end;
        }
        new.extend_from_slice(&old[copied..]);
        new
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
                let field = field.expect("a field");
                field.append_to(&mut list).expect("a list");
            }
            list
        };
        assert_eq!(list(&[0x0a, 3, 1, 0x96, 1]), [1, 150]);
        assert_eq!(list(&[0x08, 1, 0x08, 0x96, 1]), [1, 150]);
    }

    #[test]
    fn what_is_not_edited_is_copied_with_fields_that_nobody_knows() {
        let bytes = [0x08, 5, 0xfa, 0x06, 1, 9, 0x10, 0x96, 0x01, 0x10, 7];
        let same = message(&bytes).edited(|_| Ok(None)).expect("valid");
        assert_eq!(same.0, bytes);
        let edited = message(&bytes)
            .edited(|field| Ok((field.number == 2).then(Writer::default)))
            .expect("valid");
        assert_eq!(
            edited.number(2, 300).0,
            [8, 5, 0xfa, 6, 1, 9, 0x10, 0xac, 2]
        );
    }

    #[test]
    fn splices_are_made_in_the_order_of_the_file() {
        let mut splices = Splices::default();
        splices.remove(4..6);
        splices.insert(4, b"XY".to_vec());
        splices.replace(0..1, b"___".to_vec());
        assert_eq!(splices.apply(b"abcdefgh", 0), b"___bcdXYgh");
        assert_eq!(Splices::default().apply(b"ab", 0), b"ab");
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
