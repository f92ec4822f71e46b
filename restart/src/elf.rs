//! What kind of program a file is, by its first bytes.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A program, to execve(2).
#[derive(Debug, PartialEq, Eq)]
pub enum Program {
    /// Machine code.
    Elf(Elf),
    /// It names who is to run it, and perhaps the first argument of that.
    Script(PathBuf, Option<OsString>),
    /// Neither: a shell may take it for a script.
    Other,
}

/// What the headers of an ELF file say.
#[derive(Debug, PartialEq, Eq)]
pub struct Elf {
    /// Class, data encoding and machine: who can run it.
    pub machine: (u8, u8, u16),
    /// Whether it can be loaded at any address, as libraries are.
    pub shared: bool,
    /// Who loads it; a program without one is statically linked.
    pub interpreter: Option<PathBuf>,
}

/// 64 bits, little-endian, x86_64: what the library is built for.
pub const X86_64: (u8, u8, u16) = (2, 1, 62);

const ET_DYN: u16 = 3;
const PT_INTERP: u32 = 3;
/// The kernel looks at no more of a script.
const LINE: usize = 256;
/// An interpreter's path is no longer.
const PATH_MAX: u64 = 4096;

/// Reads the headers of a program. What is cut off or out of bounds is [`Program::Other`].
///
/// # Errors
/// What reading gives.
pub fn read(file: &File) -> io::Result<Program> {
    let mut head = [0; LINE];
    let length = fill(file, &mut head, 0)?;
    let head = &head[..length];
    if let Some(line) = head.strip_prefix(b"#!") {
        return Ok(script(line));
    }
    if head.len() < 64 || !head.starts_with(b"\x7fELF") {
        return Ok(Program::Other);
    }
    let machine = (head[4], head[5], u16::from_le_bytes([head[18], head[19]]));
    let interpreter = match machine == X86_64 {
        true => interpreter(file, head)?,
        // Whoever else it is for, it is not for us.
        false => None,
    };
    Ok(Program::Elf(Elf {
        machine,
        shared: head[16..18] == ET_DYN.to_le_bytes(),
        interpreter,
    }))
}

fn interpreter(file: &File, head: &[u8]) -> io::Result<Option<PathBuf>> {
    let (start, size) = (u64_at(head, 32), u16::from_le_bytes([head[54], head[55]]));
    let count = u16::from_le_bytes([head[56], head[57]]);
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        let at = start.saturating_add(index * u64::from(size));
        if fill(file, &mut entry, at)? < entry.len() {
            return Ok(None);
        }
        if entry[..4] == PT_INTERP.to_le_bytes() {
            let (at, length) = (u64_at(&entry, 8), u64_at(&entry, 32).min(PATH_MAX));
            let mut path = vec![0; length as usize];
            let length = fill(file, &mut path, at)?;
            path.truncate(length);
            path.truncate(path.iter().position(|&b| b == 0).unwrap_or(length));
            return Ok(Some(OsString::from_vec(path).into()));
        }
    }
    Ok(None)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// As the kernel reads the line: one word, and the rest as one argument.
fn script(line: &[u8]) -> Program {
    let end = line.iter().position(|&b| b == b'\n');
    let line = line[..end.unwrap_or(line.len())].trim_ascii();
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let (program, argument) = match line.iter().position(blank) {
        Some(at) => (&line[..at], line[at..].trim_ascii()),
        None => (line, &b""[..]),
    };
    if program.is_empty() {
        return Program::Other;
    }
    let argument = (!argument.is_empty()).then(|| OsString::from_vec(argument.to_vec()));
    Program::Script(OsString::from_vec(program.to_vec()).into(), argument)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], at.saturating_add(length as u64)) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // An offset that no file has.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_one_program_and_one_argument() {
        let read = |line: &str| script(line.as_bytes());
        let env = Program::Script("/usr/bin/env".into(), Some("-S a  b".into()));
        assert_eq!(read(" /usr/bin/env \t-S a  b \nmore"), env);
        assert_eq!(read("/bin/sh"), Program::Script("/bin/sh".into(), None));
        assert_eq!(read(" \n/bin/sh"), Program::Other);
    }

    #[test]
    fn this_program_is_loaded_by_glibc() {
        let file = File::open("/proc/self/exe").unwrap();
        let Program::Elf(elf) = read(&file).unwrap() else {
            panic!("no ELF file");
        };
        assert_eq!(elf.machine, X86_64);
        let interpreter = elf.interpreter.unwrap();
        assert!(
            interpreter.ends_with("ld-linux-x86-64.so.2"),
            "{interpreter:?}"
        );
    }
}
