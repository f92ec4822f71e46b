//! Files: what is at their paths here, and who has locked them.

use super::super::finding::{Cure, Finding, Verdict, quoted};
use super::{Judge, finding, inherit};
use crate::table::printable;
use ckpt_image::caller::Access;
use ckpt_image::needs::{File, Lock};
use std::io;

impl Judge<'_> {
    pub(super) fn file(&self, file: &File) -> Option<Finding> {
        let path = &file.path;
        let inherited = path.strip_prefix(b"/").unwrap_or(path);
        if self.restore.inherits(inherited) {
            return None;
        }
        let found = self.file_here(file)?;
        if !self.restore.inherits(path) {
            return Some(found);
        }
        let mut cures = vec![inherit(&String::from_utf8_lossy(inherited))];
        cures.extend(found.cures);
        Some(Finding {
            why: format!(
                "{}, and criu takes names for --inherit-fd without the first slash",
                found.why
            ),
            cures,
            ..found
        })
    }

    fn file_here(&self, file: &File) -> Option<Finding> {
        let path = &file.path;
        let status = match self.machine.status(path, true) {
            Ok(status) => status,
            Err(error) => return Some(self.missing(file, &error)),
        };
        let there = status.mode & libc::S_IFMT;
        if let Some(kind) = file.kind.filter(|kind| *kind != there) {
            let why = format!(
                "it is {} here, and was {}",
                kind_name(there),
                kind_name(kind)
            );
            return Some(finding(
                Verdict::Fails,
                "kind",
                why,
                self.do_without_or(as_it_was(path)),
            ));
        }
        if let Some(size) = file.size.filter(|size| *size != status.size) {
            let why = format!("it has {} here, and had {size}", bytes(status.size));
            let mut cures: Vec<Cure> = self.open_anew(path).into_iter().collect();
            cures.extend(self.preserve());
            cures.extend(self.drop());
            if cures.is_empty() {
                cures.push(as_it_was(path));
            }
            return Some(finding(Verdict::Fails, "size", why, cures));
        }
        if let Some(mode) = file.mode.filter(|mode| self.is_another(*mode, status.mode)) {
            let (here, was) = (status.mode & 0o7777, mode & 0o7777);
            let why = format!("its mode is {here:04o} here, and was {was:04o}");
            let shown = String::from_utf8_lossy(path);
            let mut cures = vec![Cure::Action(format!("chmod {was:04o} {}", quoted(&shown)))];
            if !self.is_another(mode & !0o777, status.mode & !0o777) {
                cures.push(Cure::Criu("--skip-file-rwx-check".to_owned()));
            }
            cures.extend(self.open_anew(path).filter(|_| there == libc::S_IFREG));
            return Some(finding(Verdict::Fails, "mode", why, cures));
        }
        if there == libc::S_IFREG && file.least > status.size {
            let (here, at) = (bytes(status.size), file.least);
            let why = format!("it has {here} here, and its offset is {at}");
            let cures = self.preserve().into_iter().chain(self.open_anew(path));
            let cures = cures.chain([as_it_was(path)]);
            return Some(finding(Verdict::Lost, "size", why, cures.collect()));
        }
        let error = self.machine.may_open(path, file.access).err()?;
        let how = match file.access.write {
            true => "written",
            false => "read",
        };
        let why = format!("it may not be {how} here: {}", said(&error));
        Some(finding(
            Verdict::Fails,
            "access",
            why,
            self.do_without_or(as_it_was(path)),
        ))
    }

    fn is_another(&self, was: u32, here: u32) -> bool {
        let mask = match self.restore.any_permissions {
            true => !0o777,
            false => u32::MAX,
        };
        (was ^ here) & mask != 0
    }

    fn missing(&self, file: &File, error: &io::Error) -> Finding {
        let lacks = self.lacks(&file.path);
        let absent = error.kind() == io::ErrorKind::NotFound;
        let why = match &lacks {
            Some(directory) if absent => format!("there is no {} here", printable(directory)),
            None if absent => "it is not here".to_owned(),
            _ => format!("it cannot be looked at: {}", said(error)),
        };
        let mut cures = Vec::new();
        let made = file.access.write && matches!(file.kind, None | Some(libc::S_IFREG));
        if !(absent && lacks.is_some()) && made {
            cures.extend(self.open_anew(&file.path));
        }
        if self.is_only_held() && matches!(file.kind, None | Some(libc::S_IFREG)) {
            let moved = self.selector().replaced_by("PATH");
            cures.push(Cure::Action(format!(
                "--substitute {moved}, where PATH is where it is now"
            )));
        }
        cures.extend(self.do_without_or(self.make(file, lacks.is_some())));
        finding(Verdict::Fails, "missing", why, cures)
    }

    /// The first directory on the way to a path that is not there.
    pub(super) fn lacks(&self, path: &[u8]) -> Option<String> {
        let ends = (1..path.len()).filter(|&at| path[at] == b'/');
        let mut parents = ends.map(|at| &path[..at]);
        let missing = parents.find(|parent| self.machine.status(parent, true).is_err())?;
        Some(String::from_utf8_lossy(missing).into_owned())
    }

    /// What does without a file, and what makes it what it was.
    fn do_without_or(&self, make: Cure) -> Vec<Cure> {
        let cures = self.preserve().into_iter().chain(self.drop());
        cures.chain([make]).collect()
    }

    /// What makes a file that cannot be found.
    ///
    /// * `lacks`: a directory on the way to it, too.
    fn make(&self, file: &File, lacks: bool) -> Cure {
        let shown = String::from_utf8_lossy(&file.path);
        let shown = quoted(&shown);
        let mode = file.mode.unwrap_or(0o644) & 0o7777;
        let absent = self.machine.status(&file.path, false).is_err();
        let way = match lacks {
            true => format!("mkdir -p {} && ", quoted(&parent(&file.path))),
            false => String::new(),
        };
        match file.kind {
            Some(libc::S_IFDIR) if absent => {
                let mode = file.mode.unwrap_or(0o755) & 0o7777;
                Cure::Action(format!("mkdir -p -m {mode:04o} {shown}"))
            }
            Some(libc::S_IFIFO) if absent => {
                Cure::Action(format!("{way}mkfifo -m {mode:04o} {shown}"))
            }
            _ => as_it_was(&file.path),
        }
    }

    /// A file that is made and deleted, and directories that are made for it.
    pub(super) fn way(&self, path: &[u8]) -> Option<Finding> {
        let mut last = None;
        for at in (1..path.len()).filter(|&at| path[at] == b'/') {
            let parent = &path[..at];
            match self.machine.status(parent, true) {
                Ok(status) if status.mode & libc::S_IFMT != libc::S_IFDIR => {
                    let name = String::from_utf8_lossy(parent);
                    let why = format!(
                        "it was deleted, and is made anew for a moment, but {} is no directory here",
                        printable(&name)
                    );
                    let mut cures = self.drop();
                    cures.push(as_it_was(parent));
                    return Some(finding(Verdict::Fails, "directory", why, cures));
                }
                Ok(_) => last = Some(parent),
                Err(_) => break,
            }
        }
        let parent = last.unwrap_or(b"/");
        let error = self.may_be_changed(parent).err()?;
        let why = format!(
            "it was deleted, and is made anew for a moment, which {} does not allow here: {}",
            printable(&String::from_utf8_lossy(parent)),
            said(&error)
        );
        Some(finding(Verdict::Fails, "access", why, self.drop()))
    }

    pub(super) fn may_be_changed(&self, directory: &[u8]) -> io::Result<()> {
        let write = Access {
            read: false,
            write: true,
        };
        self.machine.may_open(directory, write)
    }

    pub(super) fn lock(&self, lock: &Lock) -> Option<Finding> {
        if !self.restore.file_locks {
            return Some(finding(
                Verdict::Lost,
                "lock",
                "it is locked, and criu takes the lock again only if it is told to",
                vec![Cure::Criu("--file-locks".to_owned())],
            ));
        }
        let file = self.machine.status(lock.path.as_deref()?, true).ok()?.file;
        let held = self.machine.locks().iter().find(|held| {
            held.file == file && held.whole == lock.whole && (held.exclusive || lock.exclusive)
        })?;
        let mut cures = vec![Cure::Action("end the program that has it".to_owned())];
        cures.extend(self.drop());
        let verdict = match held.whole {
            true => Verdict::Fails,
            // It may be of another range.
            false => Verdict::MayFail,
        };
        let why = "another program has its lock here, and criu would wait without end";
        Some(finding(verdict, "locked", why, cures))
    }
}

/// The directory that a path is in.
pub(super) fn parent(path: &[u8]) -> String {
    let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    String::from_utf8_lossy(&path[..end.max(1)]).into_owned()
}

fn as_it_was(path: &[u8]) -> Cure {
    let shown = String::from_utf8_lossy(path);
    Cure::Action(format!("put {} back as it was", quoted(&shown)))
}

pub(super) fn kind_name(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFREG => "a regular file",
        libc::S_IFDIR => "a directory",
        libc::S_IFCHR => "a character device",
        libc::S_IFBLK => "a block device",
        libc::S_IFIFO => "a fifo",
        libc::S_IFSOCK => "a socket",
        libc::S_IFLNK => "a symbolic link",
        _ => "something else",
    }
}

fn bytes(count: u64) -> String {
    match count {
        1 => "1 byte".to_owned(),
        count => format!("{count} bytes"),
    }
}

/// What the system says, without the number.
pub(super) fn said(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}
