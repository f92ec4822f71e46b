//! What an image needs, held against what the machine has.

mod files;
mod sockets;

use super::finding::{About, Cure, Finding, Verdict, quoted};
use super::machine::Machine;
use super::restore::Restore;
use super::selector::{Numbers, Selector};
use crate::inspect;
use crate::table::printable;
use ckpt_image::advice::Kind;
use ckpt_image::listing::{Description, Engine, Listing, Reference};
use ckpt_image::needs::{Apart, Need, Needs};
use std::cell::OnceCell;

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

    fn terminal(&self) -> Option<Finding> {
        let own = || {
            // A shell has opened its terminal once more, on 255.
            let again = || Cure::option("--substitute", self.selector().given(libc::STDERR_FILENO));
            let again = self.is_only_held().then(again);
            self.preserve().or(again).into_iter()
        };
        if !self.criu {
            let why = "its terminal is not in the image, and it would come back hung up";
            return Some(finding(Verdict::Lost, "terminal", why, own().collect()));
        }
        let (why, cure) = match (self.restore.shell_job, Machine::has_terminal()) {
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
}

/// criu restore is given a file of this name.
fn inherit(name: &str) -> Cure {
    let given = format!("fd[N]:{name}");
    Cure::Criu(format!("--inherit-fd {}", quoted(&given)))
}
