//! Where libckptadv.so is, and how a program is given it.

use crate::elf::{self, Program, X86_64};
use crate::regular::OPENS;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const NAME: &str = "libckptadv.so";

/// Where libraries lie below a prefix; the dynamic loader of a system makes the first or
/// the second of `$LIB`, those of others the last.
const DIRECTORIES: [&str; 3] = ["lib/x86_64-linux-gnu", "lib64", "lib"];

/// What LD_PRELOAD is to be called, so that a library is loaded last.
///
/// * `library`: absolute; the dynamic loader's `$LIB` may be in it.
/// * `otherwise`: what a user does who has it elsewhere.
///
/// # Errors
/// Why it cannot be loaded, and what to do.
pub fn preload(library: &Path, otherwise: &str) -> Result<OsString, String> {
    let shown = library.display();
    if is_separated(library.as_os_str()) {
        return Err(format!(
            "{shown}: LD_PRELOAD cannot name a path with a space or a colon: move the library, or \
             make a link to it elsewhere"
        ));
    }
    let mut files = expanded(library);
    let there = files.find(|path| path.exists());
    let there = there.unwrap_or(library.to_owned());
    open(&there)
        .map_err(|error| error.to_string())
        .and_then(|file| can_be_loaded(&file, otherwise))
        .map_err(|why| format!("{}: {why}", there.display()))?;
    let mut value = std::env::var_os("LD_PRELOAD").unwrap_or_default();
    if !value.is_empty() {
        value.push(":");
    }
    value.push(library);
    Ok(value)
}

/// The libraries that LD_PRELOAD names, as ld.so(8) takes its value.
pub fn named(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = value.split(|byte| b" :".contains(byte));
    names.filter(|name| !name.is_empty())
}

/// Whether LD_PRELOAD would take a name for several.
fn is_separated(name: &OsStr) -> bool {
    name.as_bytes().iter().any(|byte| b" :\t\n".contains(byte))
}

/// What LD_PRELOAD is to be called in a child, so that a library is loaded first.
///
/// * `library`: a path, or a name for which the dynamic loader looks.
/// * `others`: what it would be called otherwise.
/// * `directory`: where the child starts, if not here.
///
/// # Errors
/// EINVAL where LD_PRELOAD cannot name it: it is empty, or has a space or a colon in it. Of a
/// path without the loader's `$`: what open(2) says, and ELIBBAD where it is no library for
/// this machine.
pub fn first(
    library: &OsStr,
    others: Option<&OsStr>,
    directory: Option<&Path>,
) -> Result<OsString, i32> {
    let name = library.as_bytes();
    if name.is_empty() || is_separated(library) {
        return Err(libc::EINVAL);
    }
    if name.contains(&b'/') && !name.contains(&b'$') {
        let path = directory.unwrap_or(Path::new("")).join(library);
        let file = open(&path).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        can_be_loaded(&file, "").map_err(|_| libc::ELIBBAD)?;
    }
    let others = named(others.map_or(&[][..], OsStr::as_bytes));
    let mut value = library.to_owned();
    for other in others.filter(|other| *other != name) {
        value.push(":");
        value.push(OsStr::from_bytes(other));
    }
    Ok(value)
}

/// Where it lies, unless the user says otherwise.
///
/// * `others`: directories where it may be, beside those that go with this program.
/// * `otherwise`: what a user does who has it elsewhere.
///
/// # Errors
/// Where it was looked for, and what to do.
pub fn find<'a>(
    others: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
    let places: Vec<PathBuf> = places(&program, others).collect();
    match places.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => {
            let all = places.iter().map(|path| path.display().to_string());
            let all = all.collect::<Vec<_>>().join(", ");
            Err(format!(
                "there is no {all}: install the library, or {otherwise}"
            ))
        }
    }
}

/// Where it may be.
fn places<'a>(
    program: &Path,
    others: impl IntoIterator<Item = &'a str>,
) -> impl Iterator<Item = PathBuf> {
    let beside = program.parent().map(Path::to_owned);
    let prefix = beside.as_deref().and_then(Path::parent).map(Path::to_owned);
    let below = prefix
        .into_iter()
        .flat_map(|prefix| DIRECTORIES.map(|it| prefix.join(it)));
    let directories = beside
        .into_iter()
        .chain(below)
        .chain(others.into_iter().map(PathBuf::from));
    directories.map(|directory| directory.join(NAME))
}

/// What the dynamic loader may make of `$LIB` in a path.
fn expanded(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let text = path.to_string_lossy().into_owned();
    let tokens = ["${LIB}", "$LIB"];
    DIRECTORIES.into_iter().map(move |directory| {
        let replace = |text: String, token: &&str| text.replace(*token, directory);
        tokens.iter().fold(text.clone(), replace).into()
    })
}

/// Does not wait where it is a fifo.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(OPENS).open(path)
}

fn can_be_loaded(file: &File, otherwise: &str) -> Result<(), String> {
    let elf = match elf::read(file).map_err(|error| error.to_string())? {
        Program::Elf(elf) if elf.shared => elf,
        _ => return Err("this is no library".to_owned()),
    };
    if elf.machine != X86_64 {
        return Err("this library is not for x86_64".to_owned());
    }
    if mount_flags(file).is_ok_and(|flags| flags & libc::ST_NOEXEC != 0) {
        return Err(format!(
            "it lies on a file system that is mounted noexec, and cannot be loaded: copy it \
             elsewhere, and {otherwise}"
        ));
    }
    Ok(())
}

/// How the file system of a file is mounted: ST_NOEXEC, ST_NOSUID.
///
/// # Errors
/// What fstatvfs(3) says.
pub fn mount_flags(file: &File) -> io::Result<libc::c_ulong> {
    // SAFETY: statvfs is plain data, and is filled.
    unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        match libc::fstatvfs(file.as_raw_fd(), &raw mut found) {
            0 => Ok(found.f_flag),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_beside_the_program_and_where_libraries_are() {
        let all = |program: &str| -> Vec<String> {
            let all = places(Path::new(program), ["/opt/lib"]);
            all.map(|path| path.to_string_lossy().into_owned())
                .collect()
        };
        let expected = [
            "/usr/bin/libckptadv.so",
            "/usr/lib/x86_64-linux-gnu/libckptadv.so",
            "/usr/lib64/libckptadv.so",
            "/usr/lib/libckptadv.so",
            "/opt/lib/libckptadv.so",
        ];
        assert_eq!(all("/usr/bin/ckptadv"), expected);
        assert_eq!(all("/ckptadv")[0], "/libckptadv.so");
    }

    #[test]
    fn a_program_is_no_library() {
        const ET_EXEC: u16 = 2;
        let path = std::env::temp_dir().join(format!("ckptadv-library-{}", std::process::id()));
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let relocatable = can_be_loaded(&open(&path).unwrap(), "");
        bytes[16..18].copy_from_slice(&ET_EXEC.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let fixed = can_be_loaded(&open(&path).unwrap(), "");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(relocatable, Ok(()));
        assert_eq!(fixed, Err("this is no library".to_owned()));
    }

    #[test]
    fn the_loaders_token_stands_for_each_directory() {
        for token in ["$LIB", "${LIB}"] {
            let path = format!("/usr/{token}/libckptadv.so");
            let all: Vec<PathBuf> = expanded(Path::new(&path)).collect();
            assert_eq!(all[0], Path::new("/usr/lib/x86_64-linux-gnu/libckptadv.so"));
            assert_eq!(all[1], Path::new("/usr/lib64/libckptadv.so"));
        }
    }
}
