//! A child that carries out the advice of this process.

use crate::handover::{self, CRADVISE_TABLE};
use crate::{CR_ADV_PRESERVE, Error, backend, sys};
use ckpt_restart::{file, library};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Commands that restart others from a checkpoint: a restart program of Linux-CR,
/// criu(8), or whatever starts one of these.
pub trait Advised {
    /// Gives the child the advice that this process has now, and the descriptors that
    /// it preserves, and loads the library into it that carries them out.
    ///
    /// * `library`: libckptadv.so, by its path, or by its name where the loader finds
    ///   it (ld.so(8)). It comes before what `LD_PRELOAD` has already.
    ///
    /// To be called after the command's environment and directory are set. Descriptors that are
    /// preserved lose close-on-exec in the child alone, between fork(2) and execve(2):
    /// a child that another thread starts meanwhile does not get them. Close-on-exec is
    /// taken off no others.
    ///
    /// # Errors
    /// As for [`advice`](crate::advice). EINVAL where `LD_PRELOAD` cannot name the library:
    /// it is empty, or has a space or a colon in it; make a link to it elsewhere. ENOENT,
    /// EACCES and others of open(2) where the path of the library cannot be opened, and
    /// ELIBBAD where it is no library that can be loaded. (What has no slash, or a `$`, only
    /// the loader can find: where it does not, it says so, and the program runs without.)
    ///
    /// The command itself fails to start with EBADF
    /// where a descriptor to preserve is closed by then, and with ESTALE where it
    /// holds another file, as 0, 1 and 2 do that the command redirects.
    ///
    /// Man page: cradvise(2).
    ///
    /// ```
    /// use cradvise::{Advised, CR_ADV_IGNORE, cradvise};
    /// use std::process::Command;
    ///
    /// cradvise(7, CR_ADV_IGNORE)?;
    /// let mut restore = Command::new("criu");
    /// restore.args(["restore", "-D", "images"]).advised("libckptadv.so")?;
    /// assert!(restore.get_envs().any(|(name, _)| name == "LD_PRELOAD"));
    /// # std::io::Result::Ok(())
    /// ```
    fn advised(&mut self, library: impl AsRef<OsStr>) -> io::Result<&mut Self>;
}

impl Advised for Command {
    fn advised(&mut self, library: impl AsRef<OsStr>) -> io::Result<&mut Self> {
        let others = inherited(self, "LD_PRELOAD");
        let directory = self.get_current_dir();
        let libraries = library::first(library.as_ref(), others.as_deref(), directory)
            .map_err(Error::NotLoadable)?;
        let mut preserved = Vec::new();
        let mut refused = Ok(());
        backend::for_each(|fd, advice| {
            if advice & CR_ADV_PRESERVE != 0 {
                match file::of_own(fd) {
                    Ok(identity) => preserved.push((fd, identity)),
                    Err(errno) => refused = Err(Error::Kernel(errno)),
                }
            }
        })?;
        refused?;
        let mut table = String::new();
        handover::write(&mut table).map_err(io::Error::other)?;
        match table.is_empty() {
            true => self.env_remove(CRADVISE_TABLE),
            false => self.env(CRADVISE_TABLE, table),
        };
        self.env("LD_PRELOAD", libraries);
        let hand_on = move || {
            preserved
                .iter()
                .try_for_each(|&(fd, file)| keep_open(fd, file))
        };
        // SAFETY: system calls on numbers, and no memory of the parent's is changed.
        unsafe { self.pre_exec(hand_on) };
        Ok(self)
    }
}

/// What a child of this command would find in a variable.
fn inherited(command: &Command, name: &str) -> Option<OsString> {
    match command.get_envs().find(|(set, _)| *set == name) {
        Some((_, value)) => value.map(OsStr::to_owned),
        None => std::env::var_os(name),
    }
}

/// In the child: takes close-on-exec off, if it is still the same file.
fn keep_open(fd: RawFd, expected: u64) -> io::Result<()> {
    match file::of_own(fd) {
        Ok(identity) if identity == expected => {}
        Ok(_) => return Err(Error::Stale(fd).into()),
        Err(errno) => return Err(io::Error::from_raw_os_error(errno)),
    }
    sys::keep_over_exec(fd).map_err(io::Error::from_raw_os_error)
}
