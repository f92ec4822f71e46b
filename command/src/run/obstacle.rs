//! Why the dynamic loader would not load a library into a program, found before the
//! program is started.

use ckpt_restart::elf::{self, Elf, Program, X86_64};
use ckpt_restart::library::mount_flags;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Programs that start others with an environment of their own.
const CLEARING: [&str; 5] = ["sudo", "doas", "su", "runuser", "pkexec"];

/// Scripts name scripts only so many times (the kernel: 5), and env(1) comes between.
const STEPS: usize = 16;

/// Finds a program as execvp(3) does.
///
/// # Errors
/// ENOENT where it is not there, EACCES where it cannot be executed.
pub fn locate(program: &OsStr) -> io::Result<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut error = libc::ENOENT;
    for directory in std::env::split_paths(&path) {
        let candidate = match directory.as_os_str().is_empty() {
            true => Path::new(".").join(program),
            false => directory.join(program),
        };
        if candidate.is_file() && !program.is_empty() {
            match ckpt_restart::caller::may_access(&c_string(&candidate)?, libc::X_OK) {
                Ok(()) => return Ok(candidate),
                Err(_) => error = libc::EACCES,
            }
        }
    }
    Err(io::Error::from_raw_os_error(error))
}

/// A command that is about to be executed, step by step.
struct Step {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Looks for what would keep the library out of a program, and out of what it is known
/// to run.
///
/// * `path`: where it is.
/// * `arguments`: its arguments, without its name.
///
/// # Errors
/// What that is, and what to do, in one line.
pub fn look(path: &Path, arguments: &[OsString]) -> Result<(), String> {
    let mut step = Step {
        path: path.to_owned(),
        arguments: arguments.to_vec(),
    };
    let mut criu = false;
    for _ in 0..STEPS {
        // What cannot be read or started says so itself, when it is started.
        let Ok(file) = File::open(&step.path) else {
            return Ok(());
        };
        let shown = step.path.display().to_string();
        if let Some(name) = name(&step.path).filter(|name| CLEARING.contains(name)) {
            return Err(format!(
                "{name} starts programs with an environment of its own, without the library: \
                 put it in front ({name} ckptadv run ... -- PROGRAM)"
            ));
        }
        let next = match elf::read(&file) {
            Err(_) => None,
            Ok(Program::Script(interpreter, argument)) => {
                step.arguments.insert(0, step.path.into());
                argument
                    .into_iter()
                    .for_each(|it| step.arguments.insert(0, it));
                step.path = interpreter;
                Some(step)
            }
            Ok(Program::Other) => None,
            Ok(Program::Elf(elf)) => match machine_code(&step.path, &file, &elf)? {
                Linkage::Static if !criu => {
                    criu = true;
                    Some(who_is_started(&shown, &file)?)
                }
                Linkage::Static => return Err(is_static(&shown)),
                Linkage::Dynamic if name(&step.path) == Some("env") => by_env(&step)?,
                Linkage::Dynamic => None,
            },
        };
        match next {
            Some(next) => step = next,
            None => break,
        }
    }
    Ok(())
}

enum Linkage {
    Dynamic,
    Static,
}

/// What the loader and the kernel make of an ELF file.
fn machine_code(path: &Path, file: &File, elf: &Elf) -> Result<Linkage, String> {
    let shown = path.display();
    if elf.machine != X86_64 {
        return Err(format!(
            "{shown} is not for x86_64 as the library is: use a program that is, or ckptadv rewrite"
        ));
    }
    if let Some(how) = privileged(path, file) {
        return Err(format!(
            "{shown} {how}, and the dynamic loader preloads nothing into such a program: run \
             ckptadv as that user or as root, or use a copy without it"
        ));
    }
    let Some(interpreter) = &elf.interpreter else {
        return Ok(match name(path).is_some_and(is_glibc) {
            // The loader itself, which is given a program.
            true => Linkage::Dynamic,
            false => Linkage::Static,
        });
    };
    // Other C libraries come under the name of glibc's, too.
    let real = interpreter.canonicalize().unwrap_or(interpreter.clone());
    match name(&real) {
        Some(file) if file.contains("musl") => Err(format!(
            "{shown} is linked with musl ({}), and the library is for glibc: use a program that \
             is linked with glibc, or ckptadv rewrite",
            interpreter.display()
        )),
        Some(file) if !is_glibc(file) => Err(format!(
            "{shown} is loaded by {}, which is not glibc's, for which the library is: use a \
             program that is linked with glibc, or ckptadv rewrite",
            interpreter.display()
        )),
        _ => Ok(Linkage::Dynamic),
    }
}

/// Whether the name is one of the dynamic loader of glibc.
fn is_glibc(name: &str) -> bool {
    ["ld-linux", "ld-2.", "ld.so"]
        .iter()
        .any(|it| name.starts_with(it))
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// In which way a program would be started in secure-execution mode (AT_SECURE).
fn privileged(path: &Path, file: &File) -> Option<&'static str> {
    // SAFETY: none of these calls takes memory.
    let (user, group, stays) = unsafe {
        let stays = libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
        (libc::getuid(), libc::getgid(), stays)
    };
    let ignored = mount_flags(file).is_ok_and(|flags| flags & libc::ST_NOSUID != 0);
    let metadata = file.metadata().ok()?;
    let mode = metadata.mode();
    if stays || ignored {
        None
    } else if mode & libc::S_ISUID != 0 && metadata.uid() != user {
        Some("is set-user-ID")
    } else if mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP
        && metadata.gid() != group
    {
        Some("is set-group-ID")
    } else if user != 0 && has_capabilities(path) {
        Some("has file capabilities")
    } else {
        None
    }
}

/// Whether a file gives capabilities: struct vfs_cap_data, whose first word has the
/// effective bit, and whose second and fourth are what it permits.
fn has_capabilities(path: &Path) -> bool {
    let mut data = [0u8; 24];
    let Ok(path) = c_string(path) else {
        return false;
    };
    let attribute = c"security.capability".as_ptr();
    // SAFETY: both strings end in a NUL, and the buffer has the length told.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            attribute,
            data.as_mut_ptr().cast(),
            data.len(),
        )
    };
    length >= 12 && (data[0] & 1 != 0 || data[4..8] != [0; 4] || data[12..16] != [0; 4])
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn is_static(shown: &str) -> String {
    format!(
        "{shown} is statically linked, and nothing can be preloaded into it: use one that is \
         linked dynamically, or ckptadv rewrite"
    )
}

/// A statically linked program that has criu restart is none itself.
fn who_is_started(shown: &str, file: &File) -> Result<Step, String> {
    // Who speaks criu's protocol starts "criu swrk"; criu alone has a configuration.
    let [speaks, is_criu] = has(file, [b"swrk", b"CRIU_CONFIG_FILE"]).unwrap_or_default();
    if !speaks || is_criu {
        return Err(is_static(shown));
    }
    match locate(OsStr::new("criu")) {
        Ok(path) => Ok(Step {
            path,
            arguments: Vec::new(),
        }),
        Err(_) => Err(format!(
            "{shown} is statically linked, and no criu that it could start is in PATH: install \
             criu, or add its directory to PATH"
        )),
    }
}

/// Which of some words are in a file.
fn has<const N: usize>(file: &File, words: [&[u8]; N]) -> io::Result<[bool; N]> {
    const CHUNK: usize = 1 << 20;
    let longest = words.iter().map(|word| word.len()).max().unwrap_or(0);
    let mut found = [false; N];
    let mut bytes = Vec::with_capacity(CHUNK + longest);
    loop {
        // A word may lie across two pieces.
        let kept = bytes.len().min(longest);
        bytes.drain(..bytes.len() - kept);
        if file.take(CHUNK as u64).read_to_end(&mut bytes)? == 0 {
            return Ok(found);
        }
        for (found, word) in found.iter_mut().zip(words) {
            *found = *found || bytes.windows(word.len()).any(|it| it == word);
        }
    }
}

/// What env(1) is going to start; `None` where it is not plain.
fn by_env(step: &Step) -> Result<Option<Step>, String> {
    let words = step.arguments.iter().flat_map(|word| {
        // Of a script: one argument with many words.
        let split = word.as_bytes().strip_prefix(b"-S").map(|rest| {
            let words = rest
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            words
                .map(|word| OsStr::from_bytes(word).to_owned())
                .collect()
        });
        split.unwrap_or_else(|| vec![word.clone()])
    });
    let mut words = words.collect::<Vec<_>>().into_iter();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"-i" | b"-" | b"--ignore-environment" => return Err(without("env -i")),
            b"-u" | b"--unset" => unset(words.next().unwrap_or_default().as_bytes())?,
            [b'-', b'u', name @ ..] => unset(name)?,
            word if word.starts_with(b"--unset=") => unset(&word[8..])?,
            word if word.starts_with(b"LD_PRELOAD=") => {
                return Err(
                    "env LD_PRELOAD=... leaves the library out: put it in front (LD_PRELOAD=... \
                     ckptadv run ... -- PROGRAM), and both are loaded"
                        .to_owned(),
                );
            }
            b"--" => {}
            [b'-', ..] => return Ok(None),
            bytes if bytes.contains(&b'=') => {}
            _ => {
                let located = locate(&word).ok();
                return Ok(located.map(|path| Step {
                    path,
                    arguments: words.collect(),
                }));
            }
        }
    }
    Ok(None)
}

/// A variable that env(1) takes away.
fn unset(name: &[u8]) -> Result<(), String> {
    match name {
        b"LD_PRELOAD" => Err(without("env -u LD_PRELOAD")),
        _ => Ok(()),
    }
}

fn without(env: &str) -> String {
    format!(
        "{env} starts programs without the library: put it in front ({env} ckptadv run ... -- \
         PROGRAM)"
    )
}
