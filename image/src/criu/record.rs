//! What a dump left out of an image, as the file beside the image tells it
//! (libckptadv(8), FILES).
//!
//! ```text
//! {"ckptadv":1,"left_out":[
//!  {"task":17,"fd":7,"id":0,"flags":2,"kind":"chr","file":"/dev/fuse"}
//! ]}
//! ```
//!
//! The file comes with an image and is as little to be trusted. Keys that nobody
//! here knows are passed over, so that a later version can say more.

use crate::Error;
use crate::advice::{Kind, parse_kind};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

/// The name of the file in the directory of the image.
pub const RECORD: &str = "ckptadv.json";

/// A longer file is refused, and need not be read.
pub const LONGEST: u64 = 16 << 20;

const VERSION: u64 = 1;

/// Objects and arrays within each other, at most.
const DEEPEST: usize = 32;

/// A descriptor that a task had when it was dumped, and that the image lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The task, by its pid in the image.
    pub task: i32,
    /// The descriptor.
    pub number: i32,
    /// Entries with the same one were the same open file description.
    pub id: u32,
    /// Its flags, as open(2) has them: of the description, and O_CLOEXEC.
    pub flags: i32,
    /// What kind of file it was.
    pub kind: Kind,
    /// What /proc/PID/fd showed.
    pub file: String,
}

impl LeftOut {
    /// The flags of the descriptor itself, as F_GETFD gives them.
    pub(super) fn fd_flags(&self) -> u32 {
        match self.flags & libc::O_CLOEXEC {
            0 => 0,
            _ => libc::FD_CLOEXEC.unsigned_abs(),
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeftOut {
            task,
            number,
            kind,
            file,
            ..
        } = self;
        write!(
            f,
            "task {task} descriptor {number} ({kind} {file}) was left out of the image"
        )
    }
}

/// How much of a file of an image is read at most, in bytes: one more than
/// [`LONGEST`] of this file, everything of others.
pub fn at_most(name: &str) -> u64 {
    if name == RECORD {
        LONGEST + 1
    } else {
        u64::MAX
    }
}

/// The bytes of the file.
pub fn write(left_out: &[LeftOut]) -> Vec<u8> {
    let mut text = format!("{{\"ckptadv\":{VERSION},\"left_out\":[");
    for (index, entry) in left_out.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        let LeftOut {
            task,
            number,
            id,
            flags,
            kind,
            file,
        } = entry;
        let _ = write!(
            text,
            "{separator}\n {{\"task\":{task},\"fd\":{number},\"id\":{id},\"flags\":{flags},\"kind\":\"{kind}\",\"file\":"
        );
        quote(file, &mut text);
        text.push('}');
    }
    text.push_str("\n]}\n");
    text.into_bytes()
}

fn quote(string: &str, text: &mut String) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// Reads the file.
///
/// # Errors
/// [`Error::Image`] where it is not JSON, of a version that is not known here, or
/// does not say of each descriptor what it must.
pub fn read(bytes: &[u8]) -> Result<Vec<LeftOut>, Error> {
    let mut reader = Reader { bytes, at: 0 };
    if bytes.len() as u64 > LONGEST {
        return Err(reader.error("the file is too long"));
    }
    let mut left_out = Vec::new();
    reader.expect(b'{')?;
    if reader.string()? != "ckptadv" {
        return Err(reader.error("it does not begin with {\"ckptadv\":"));
    }
    reader.expect(b':')?;
    if reader.number()? != VERSION {
        return Err(reader.error(format!("only version {VERSION} of this file is known")));
    }
    let mut keys = BTreeSet::new();
    while reader.another(b'}')? {
        let key = reader.string()?;
        if !keys.insert(key.clone()) {
            return Err(reader.error(format!("\"{key}\" stands twice")));
        }
        reader.expect(b':')?;
        if key == "left_out" {
            entries(&mut reader, &mut left_out)?;
        } else {
            reader.pass_over()?;
        }
    }
    reader.space();
    if reader.at != bytes.len() {
        return Err(reader.error("something follows the end"));
    }
    Ok(left_out)
}

fn entries(reader: &mut Reader<'_>, left_out: &mut Vec<LeftOut>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    reader.expect(b'[')?;
    let mut first = true;
    while reader.element(&mut first, b']')? {
        let entry = entry(reader)?;
        if !seen.insert((entry.task, entry.number)) {
            return Err(reader.error(format!(
                "descriptor {} of task {} stands twice",
                entry.number, entry.task
            )));
        }
        left_out.push(entry);
    }
    Ok(())
}

fn entry(reader: &mut Reader<'_>) -> Result<LeftOut, Error> {
    let (mut task, mut number, mut id, mut flags) = (None, None, None, None);
    let (mut kind, mut file) = (None, None);
    reader.expect(b'{')?;
    let mut first = true;
    while reader.element(&mut first, b'}')? {
        let key = reader.string()?;
        reader.expect(b':')?;
        match key.as_str() {
            "task" => task = Some(reader.small()?),
            "fd" => number = Some(reader.small()?),
            "id" => id = Some(reader.small()?.unsigned_abs()),
            "flags" => flags = Some(reader.small()?),
            "kind" => kind = Some(parse_kind(&reader.string()?).unwrap_or(Kind::Other)),
            "file" => file = Some(reader.string()?),
            _ => reader.pass_over()?,
        }
    }
    match (task, number, id, flags, kind, file) {
        (Some(task), Some(number), Some(id), Some(flags), Some(kind), Some(file)) => Ok(LeftOut {
            task,
            number,
            id,
            flags,
            kind,
            file,
        }),
        _ => Err(reader.error("an entry lacks one of task, fd, id, flags, kind and file")),
    }
}

/// JSON, read where it lies and once.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn error(&self, reason: impl Into<String>) -> Error {
        Error::Image {
            file: RECORD.to_owned(),
            offset: self.at as u64,
            reason: reason.into(),
        }
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The next byte that is no white space, which stays to be read.
    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Error> {
        if self.peek() != Some(byte) {
            return Err(self.error(format!("expected '{}'", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    /// After an element: whether another follows, or the end.
    fn another(&mut self, end: u8) -> Result<bool, Error> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.error(format!("expected ',' or '{}'", char::from(end)))),
        }
    }

    /// Whether an element follows, the first one or another.
    fn element(&mut self, first: &mut bool, end: u8) -> Result<bool, Error> {
        if std::mem::replace(first, false) && self.peek() != Some(end) {
            return Ok(true);
        }
        self.another(end)
    }

    fn number(&mut self) -> Result<u64, Error> {
        self.space();
        let rest = &self.bytes[self.at..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let text = std::str::from_utf8(&rest[..digits]).unwrap_or("");
        let number = text.parse().map_err(|_| self.error("expected a number"))?;
        self.at += digits;
        Ok(number)
    }

    fn small(&mut self) -> Result<i32, Error> {
        let number = self.number()?;
        i32::try_from(number).map_err(|_| self.error("the number is too large"))
    }

    fn string(&mut self) -> Result<String, Error> {
        self.expect(b'"')?;
        let mut string = Vec::new();
        loop {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(self.error("a string without an end"));
            };
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    let mut buffer = [0; 4];
                    let c = self.escaped()?;
                    string.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                }
                0..0x20 => return Err(self.error("a control character in a string")),
                byte => string.push(byte),
            }
        }
        String::from_utf8(string).map_err(|_| self.error("a string is not UTF-8"))
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Result<char, Error> {
        let letter = self.bytes.get(self.at).copied();
        self.at += 1;
        Ok(match letter {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let digits = self.bytes.get(self.at..self.at + 4);
                let code = digits
                    .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
                    .and_then(|digits| std::str::from_utf8(digits).ok())
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                    .ok_or_else(|| self.error("expected four hexadecimal digits"))?;
                self.at += 4;
                // What lies above is written as it is.
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err(self.error("an escape that is none")),
        })
    }

    /// Passes over one value of any kind.
    fn pass_over(&mut self) -> Result<(), Error> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => drop(self.string()?),
                Some(byte @ (b'{' | b'[')) => {
                    if open.len() == DEEPEST {
                        return Err(self.error("too deep"));
                    }
                    self.at += 1;
                    open.push(byte + 2); // The bracket that closes it.
                    if self.peek() != open.last().copied() {
                        if byte == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => self.word(),
                _ => return Err(self.error("expected a value")),
            }
            loop {
                let Some(&end) = open.last() else {
                    return Ok(());
                };
                // An empty one ends at once.
                if self.another(end)? {
                    if end == b'}' {
                        self.key()?;
                    }
                    break;
                }
                open.pop();
            }
        }
    }

    fn key(&mut self) -> Result<(), Error> {
        self.string()?;
        self.expect(b':')
    }

    /// A number, true, false or null: nothing depends on which.
    fn word(&mut self) {
        let of_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let rest = &self.bytes[self.at..];
        self.at += rest.iter().take_while(|b| of_word(b)).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out() -> Vec<LeftOut> {
        let entry = |task, number, id, kind, file: &str| LeftOut {
            task,
            number,
            id,
            flags: libc::O_RDWR,
            kind,
            file: file.to_owned(),
        };
        vec![
            entry(17, 7, 0, Kind::Chr, "/dev/fuse"),
            entry(17, 8, 1, Kind::Reg, "/a \"b\"\\c\n\u{9b}ü\u{1f600}"),
            entry(18, 7, 0, Kind::Chr, "/dev/fuse"),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&write(&left_out())), Ok(left_out()));
        assert_eq!(read(&write(&[])), Ok(vec![]));
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let text = br#"{ "ckptadv" : 1, "more": [{"a":[],"b":{}}, -1.5e3, null, "x\u0041"],
            "left_out": [ {"task":1,"new":{"deep":[[1],[]]},"fd":2,"id":0,"flags":1,"kind":"future","file":"f"} ],
            "last": true }"#;
        let expected = LeftOut {
            task: 1,
            number: 2,
            id: 0,
            flags: libc::O_WRONLY,
            kind: Kind::Other,
            file: "f".to_owned(),
        };
        assert_eq!(read(text), Ok(vec![expected]));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let whole = write(&left_out());
        for length in 0..whole.len() - 1 {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
        let deep = format!("{{\"ckptadv\":1,\"a\":{}", "[".repeat(100_000));
        for text in [
            "[]",
            "{\"version\":1}",
            "{\"ckptadv\":2,\"left_out\":7}",
            "{\"ckptadv\":1,\"left_out\":[{}]}",
            "{\"ckptadv\":1,\"left_out\":[{\"task\":1,\"fd\":4294967296}]}",
            "{\"ckptadv\":1,\"left_out\":[,]}",
            "{\"ckptadv\":1,\"a\":[}]}",
            "{\"ckptadv\":1,\"a\":\"\\u12\"}",
            "{\"ckptadv\":1} x",
            "{\"ckptadv\":1,\"left_out\":[],\"left_out\":[]}",
            &deep,
        ] {
            let error = read(text.as_bytes()).expect_err(text);
            assert_eq!(error.errno(), libc::EINVAL);
        }
        let twice = [left_out()[0].clone(), left_out()[0].clone()];
        assert!(read(&write(&twice)).is_err());
    }
}
