//! What an image needs, held against what the machine has.

use super::finding::{About, Cure, Finding, Verdict, quoted};
use super::machine::{Machine, State};
use super::restore::Restore;
use super::selector::{Numbers, Selector};
use crate::inspect;
use crate::table::printable;
use ckpt_image::advice::Kind;
use ckpt_image::listing::{Description, Engine, Listing, Reference};
use ckpt_image::needs::{Apart, File, InTheWay, Lock, Need, Needs, Port, Protocol};
use std::cell::OnceCell;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Judges an image.
///
/// * `is_given`: whether advice gives a description, so that nothing of the image is
///   left of it.
pub fn judge(
    listing: &Listing,
    needs: &Needs,
    machine: &Machine,
    restore: &Restore,
    is_given: impl Fn(&Description) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let numbers = Numbers::of(listing);
    for description in listing.descriptions.iter().filter(|it| !is_given(it)) {
        let Some(list) = needs.descriptions.get(&description.id) else {
            continue;
        };
        let judge = Judge {
            machine,
            restore,
            apart: needs.apart,
            criu: listing.engine == Engine::Criu,
            numbers: &numbers,
            selector: OnceCell::new(),
            description,
        };
        let found: Vec<Finding> = list.iter().filter_map(|need| judge.need(need)).collect();
        if found.is_empty() {
            continue;
        }
        let about = About {
            id: description.id,
            kind: description.kind.name(),
            name: printable(&description.name),
            descriptors: listing.descriptors(description).collect(),
            held: held(listing, description),
        };
        findings.extend(found.into_iter().map(|found| Finding {
            about: Some(about.clone()),
            ..found
        }));
    }
    let whole = needs.image.iter();
    findings.extend(whole.filter_map(|need| of_image(need, needs.apart, restore)));
    findings
}

/// What was not looked at, in words.
pub fn unjudged(needs: &Needs, restore: &Restore) -> Vec<String> {
    let Apart {
        files,
        network,
        pids,
    } = needs.apart;
    let mut lines = Vec::new();
    if files && restore.root.is_none() {
        lines.push(
            "paths, which lie in a file namespace of the image's own: give -- --root DIR"
                .to_owned(),
        );
    }
    if network {
        lines.push("ports and abstract names, which the image has to itself".to_owned());
    }
    if pids {
        lines.push("pids, which the image has to itself".to_owned());
    }
    lines
}

fn held(listing: &Listing, description: &Description) -> String {
    let descriptors = inspect::descriptors(listing, description);
    match descriptors.is_empty() {
        true => inspect::references(&description.references).join("; "),
        false => descriptors,
    }
}

fn finding(
    verdict: Verdict,
    what: &'static str,
    why: impl Into<String>,
    cures: Vec<Cure>,
) -> Finding {
    Finding {
        verdict,
        what,
        about: None,
        why: why.into(),
        cures,
    }
}

fn of_image(need: &Need, apart: Apart, restore: &Restore) -> Option<Finding> {
    let criu = |option: &str| Cure::Criu(option.to_owned());
    match need {
        Need::Pids(pids) if !apart.pids => {
            let taken: Vec<String> = pids
                .iter()
                .filter(|pid| Machine::has_task(**pid))
                .map(|pid| pid.to_string())
                .collect();
            let (have, them) = match taken.len() {
                0 => return None,
                1 => ("another task has the pid", "it"),
                _ => ("other tasks have the pids", "them"),
            };
            let action = |text: &str| Cure::Action(text.to_owned());
            Some(finding(
                Verdict::Fails,
                "pid",
                format!("{have} {}", taken.join(", ")),
                vec![
                    action(&format!(
                        "end {them} (the program itself, if it still runs)"
                    )),
                    action("unshare --pid --mount-proc --fork criu restore ..."),
                ],
            ))
        }
        Need::Session(leader) if !restore.shell_job && !apart.pids => {
            let why = format!(
                "it belongs to the session of a shell, {leader}, which is not in the image and \
                 has that pid here"
            );
            let taken = Machine::has_task(*leader) && Machine::session() != *leader;
            taken.then(|| finding(Verdict::Fails, "session", why, vec![criu("--shell-job")]))
        }
        Need::TcpClose if !restore.tcp_close => Some(finding(
            Verdict::Fails,
            "option",
            "it was dumped with --tcp-close, and is restored with that only",
            vec![criu("--tcp-close")],
        )),
        _ => None,
    }
}

/// Judges what one description needs.
struct Judge<'a> {
    machine: &'a Machine,
    restore: &'a Restore,
    apart: Apart,
    criu: bool,
    numbers: &'a Numbers<'a>,
    /// For cures: only what is found has any.
    selector: OnceCell<Selector>,
    description: &'a Description,
}

impl Judge<'_> {
    fn selector(&self) -> &Selector {
        self.selector
            .get_or_init(|| Selector::of(self.numbers, self.description))
    }

    fn need(&self, need: &Need) -> Option<Finding> {
        let paths = !self.apart.files || self.restore.root.is_some();
        let network = !self.apart.network;
        match need {
            Need::File(file) if paths => self.file(file),
            Need::Way(path) if paths => self.way(path),
            Need::UnixPath(path, way) if paths => self.unix_path(path, *way),
            Need::UnixName(name) if network => self.unix_name(name),
            Need::UnixPeer(path) if paths => self.unix_peer(path),
            Need::Port(port) if network => self.port(*port),
            Need::Connection(here, there) => self.connection(*here, *there),
            Need::Terminal => self.terminal(),
            Need::Pty(index) if paths => self.pty(*index),
            Need::OtherEnd => self.other_end(),
            Need::Lock(lock) => self.lock(lock),
            Need::Given(name) if !self.restore.inherits(name.as_bytes()) => Some(finding(
                Verdict::Fails,
                "external",
                "it was dumped as external, and criu restore must be given it",
                [inherit(name)].into_iter().chain(self.drop()).collect(),
            )),
            Need::Plugin => Some(finding(
                Verdict::MayFail,
                "plugin",
                "a plugin of criu has dumped it, and must be there to restore it",
                self.drop(),
            )),
            _ => None,
        }
    }

    /// Whether only descriptors hold it, so that advice can cure what is wrong with it.
    fn is_only_held(&self) -> bool {
        let by_descriptors = |reference: &Reference| {
            !matches!(
                reference,
                Reference::Mapping(_)
                    | Reference::Executable(_)
                    | Reference::WorkingDirectory(_)
                    | Reference::RootDirectory(_)
                    | Reference::Queue(_)
            )
        };
        !self.selector().is_empty() && self.description.references.iter().all(by_descriptors)
    }

    fn drop(&self) -> Vec<Cure> {
        match self.is_only_held() {
            true => vec![Cure::option("--ignore", self.selector().shortest())],
            false => Vec::new(),
        }
    }

    /// The restart program's own, where that is what people mean.
    fn preserve(&self) -> Option<Cure> {
        let own = self.selector().own().filter(|_| self.is_only_held());
        own.map(Cure::Advice)
    }

    /// What is at a path now, or will be made there.
    fn open_anew(&self, path: &[u8]) -> Option<Cure> {
        let path = std::str::from_utf8(path)
            .ok()
            .filter(|_| self.is_only_held());
        path.map(|path| Cure::option("--substitute", self.selector().replaced_by(path)))
    }

    fn file(&self, file: &File) -> Option<Finding> {
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
    fn lacks(&self, path: &[u8]) -> Option<String> {
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
    fn way(&self, path: &[u8]) -> Option<Finding> {
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

    fn may_be_changed(&self, directory: &[u8]) -> io::Result<()> {
        let write = ckpt_image::caller::Access {
            read: false,
            write: true,
        };
        self.machine.may_open(directory, write)
    }

    fn unix_path(&self, path: &[u8], way: InTheWay) -> Option<Finding> {
        let shown = String::from_utf8_lossy(path);
        let or_remove = || {
            let mut cures = self.drop();
            cures.push(Cure::Action(format!("rm {}", quoted(&shown))));
            cures
        };
        let parent = parent(path);
        let there = match self.machine.status(path, false) {
            Ok(status) => status.mode & libc::S_IFMT,
            Err(_) => {
                if let Some(missing) = self.lacks(path) {
                    let mut cures = vec![Cure::Action(format!("mkdir -p {}", quoted(&parent)))];
                    cures.extend(self.drop());
                    let why = format!(
                        "it is bound there, but there is no {} here",
                        printable(&missing)
                    );
                    return Some(finding(Verdict::Fails, "directory", why, cures));
                }
                let error = self.may_be_changed(parent.as_bytes()).err()?;
                let why = format!("it cannot be bound there: {}", said(&error));
                return Some(finding(Verdict::Fails, "access", why, self.drop()));
            }
        };
        match (there, way) {
            (libc::S_IFSOCK, _) if self.machine.names.contains(path) => Some(finding(
                Verdict::Lost,
                "name",
                "a program listens there now, and would be cut off from its name",
                self.drop(),
            )),
            (libc::S_IFSOCK, _) => None,
            (libc::S_IFDIR, _) | (_, InTheWay::SocketIsRemoved) => {
                let why = format!("{} is in its way here", kind_name(there));
                Some(finding(Verdict::Fails, "name", why, or_remove()))
            }
            (_, InTheWay::IsRemoved) => {
                let why = format!("{} is there now, and would be removed", kind_name(there));
                Some(finding(Verdict::Lost, "name", why, self.drop()))
            }
        }
    }

    fn unix_name(&self, name: &[u8]) -> Option<Finding> {
        // The kernel shows every zero byte so.
        let shown = name.iter().map(|&byte| if byte == 0 { b'@' } else { byte });
        let name: Vec<u8> = std::iter::once(b'@').chain(shown).collect();
        self.machine.names.contains(&name).then(|| {
            let mut cures = self.drop();
            cures.push(Cure::Action("end the program that has it".to_owned()));
            finding(
                Verdict::Fails,
                "name",
                "another program has this name here",
                cures,
            )
        })
    }

    fn unix_peer(&self, path: &[u8]) -> Option<Finding> {
        let name = printable(&String::from_utf8_lossy(path));
        let status = self.machine.status(path, true);
        let is_socket = |mode: u32| mode & libc::S_IFMT == libc::S_IFSOCK;
        let why = match status {
            Err(_) => format!("it is connected to {name}, which is not here"),
            Ok(status) if !is_socket(status.mode) => {
                format!("it is connected to {name}, which is no socket here")
            }
            Ok(_) if !self.machine.names.contains(path) => {
                format!("it is connected to {name}, where nobody listens")
            }
            Ok(_) => return None,
        };
        let mut cures = self.drop();
        cures.push(Cure::Action(
            "start the program that listens there".to_owned(),
        ));
        Some(finding(Verdict::Fails, "peer", why, cures))
    }

    fn port(&self, port: Port) -> Option<Finding> {
        let name = match port.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        if !port.foreign && !self.machine.has_address(port.address) {
            let why = format!("this machine does not have the address {}", port.address);
            return Some(finding(Verdict::Fails, "address", why, self.drop()));
        }
        let sockets = self.machine.sockets.iter().filter(|other| {
            other.protocol == port.protocol
                && other.local.port() == port.port
                && other.state != State::Waits
        });
        let mut worst: Option<(Verdict, SocketAddr)> = None;
        for other in sockets {
            let Some(surely) = overlap(port.address, other.local.ip()) else {
                continue;
            };
            let holds = port.protocol == Protocol::Udp || other.state == State::Listens;
            let verdict = match surely && holds {
                true => Verdict::Fails,
                false => Verdict::MayFail,
            };
            if worst.is_none_or(|(other, _)| other != Verdict::Fails) {
                worst = Some((verdict, other.local));
            }
        }
        let (verdict, taken) = worst?;
        let why = format!("another program has {name} {taken} here");
        let mut cures = self.drop();
        cures.push(Cure::Action(format!(
            "end it: ss -{}np sport = {}",
            if port.protocol == Protocol::Tcp {
                "ta"
            } else {
                "ua"
            },
            port.port
        )));
        Some(finding(verdict, "port", why, cures))
    }

    fn connection(&self, here: SocketAddr, there: SocketAddr) -> Option<Finding> {
        if !self.criu || self.restore.tcp_close {
            return None;
        }
        if !self.restore.tcp_established {
            let mut cures = vec![
                Cure::Criu("--tcp-established".to_owned()),
                Cure::Criu("--tcp-close".to_owned()),
            ];
            cures.extend(self.drop());
            let why = format!("it is connected to {there}, and criu must be told what to do");
            return Some(finding(Verdict::Fails, "connection", why, cures));
        }
        if self.apart.network {
            return None;
        }
        let cures = || {
            let mut cures = vec![Cure::Criu("--tcp-close".to_owned())];
            cures.extend(self.drop());
            cures
        };
        if !self.machine.has_address(here.ip()) {
            let why = format!("this machine does not have the address {}", here.ip());
            return Some(finding(Verdict::Fails, "address", why, cures()));
        }
        let taken = self.machine.sockets.iter().any(|other| {
            other.protocol == Protocol::Tcp
                && (other.local, other.remote) == (here, there)
                && other.state != State::Waits
        });
        taken.then(|| {
            let why = format!("there is a connection from {here} to {there} here");
            finding(Verdict::Fails, "connection", why, cures())
        })
    }

    fn terminal(&self) -> Option<Finding> {
        let own = || self.preserve().into_iter();
        if !self.criu {
            let why = "its terminal is not in the image, and it would come back hung up";
            return Some(finding(Verdict::Lost, "terminal", why, own().collect()));
        }
        let (why, cure) = match (self.restore.shell_job, self.machine.has_terminal) {
            (true, true) => return None,
            (false, _) => (
                "its terminal is not in the image, and criu must be told to use its own",
                Cure::Criu("--shell-job".to_owned()),
            ),
            (true, false) => (
                "its terminal is not in the image, and descriptor 0 here is none",
                Cure::Action("start criu restore on a terminal".to_owned()),
            ),
        };
        let cures = own().chain([cure]).collect();
        Some(finding(Verdict::Fails, "terminal", why, cures))
    }

    fn pty(&self, index: u32) -> Option<Finding> {
        let path = format!("/dev/pts/{index}");
        self.machine.status(path.as_bytes(), true).ok()?;
        Some(finding(
            Verdict::Fails,
            "terminal",
            format!("another program has the number {index} of its terminal"),
            vec![Cure::Action("end it".to_owned())],
        ))
    }

    fn other_end(&self) -> Option<Finding> {
        let name = &self.description.name;
        if self.restore.inherits(name.as_bytes()) {
            return None;
        }
        let mut cures: Vec<Cure> = self.preserve().into_iter().collect();
        if self.criu && self.description.kind == Kind::Pipe {
            cures.push(inherit(name));
        }
        cures.extend(self.drop());
        let writes = self.description.flags.cast_signed() & libc::O_ACCMODE == libc::O_WRONLY;
        let why = match writes {
            true => "nobody in the image reads from it, and it comes back broken (EPIPE)",
            false => "nobody in the image writes into it, and it comes back at its end",
        };
        Some(finding(Verdict::Lost, "other end", why, cures))
    }

    fn lock(&self, lock: &Lock) -> Option<Finding> {
        if !self.restore.file_locks {
            return Some(finding(
                Verdict::Lost,
                "lock",
                "it is locked, and criu takes the lock again only if it is told to",
                vec![Cure::Criu("--file-locks".to_owned())],
            ));
        }
        let file = self.machine.status(lock.path.as_deref()?, true).ok()?.file;
        let held = self.machine.locks.iter().find(|held| {
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
fn parent(path: &[u8]) -> String {
    let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    String::from_utf8_lossy(&path[..end.max(1)]).into_owned()
}

/// Whether two sockets of one port are in each other's way, and whether surely so.
fn overlap(one: IpAddr, other: IpAddr) -> Option<bool> {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    if one == other {
        return Some(true);
    }
    match (one.is_unspecified(), other.is_unspecified()) {
        (false, false) => None,
        // One of them may be of version 6 only.
        _ => match one.is_ipv4() == other.is_ipv4() {
            true => Some(true),
            false if one.is_ipv4() && !other.is_unspecified() => None,
            false if other.is_ipv4() && !one.is_unspecified() => None,
            false => Some(false),
        },
    }
}

/// criu restore is given a file of this name.
fn inherit(name: &str) -> Cure {
    let given = format!("fd[N]:{name}");
    Cure::Criu(format!("--inherit-fd {}", quoted(&given)))
}

fn as_it_was(path: &[u8]) -> Cure {
    let shown = String::from_utf8_lossy(path);
    Cure::Action(format!("put {} back as it was", quoted(&shown)))
}

fn kind_name(mode: u32) -> &'static str {
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
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}
