//! The command line of an OCI runtime, as far as it matters here: runc(8), crun(1) and those that take after them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Our own option.
const CONFIG: &[u8] = b"ckptadv-config";

/// Options before the command that have a value, without dashes.
const GLOBAL_WITH_VALUE: &[&str] = &[
    "log",
    "l",
    "log-format",
    "root",
    "r",
    "criu",
    "rootless",
    "cgroup-manager",
];

/// Options before the command that have none.
const GLOBAL_ALONE: &[&str] = &[
    "debug",
    "systemd-cgroup",
    "help",
    "h",
    "?",
    "usage",
    "version",
    "v",
    "V",
];

/// Options of checkpoint and restore that have a value.
const WITH_VALUE: &[&str] = &[
    "bundle",
    "b",
    "console-socket",
    "empty-ns",
    "image-path",
    "lsm-mount-context",
    "lsm-profile",
    "manage-cgroups-mode",
    "network-lock",
    "page-server",
    "parent-path",
    "pid-file",
    "status-fd",
    "work-path",
];

/// Options of checkpoint and restore that have none.
const ALONE: &[&str] = &[
    "auto-dedup",
    "d",
    "detach",
    "ext-unix-sk",
    "file-locks",
    "lazy-pages",
    "leave-running",
    "no-pivot",
    "no-subreaper",
    "pre-dump",
    "shell-job",
    "tcp-close",
    "tcp-established",
    "tcp-skip-in-flight",
];

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Dump this container.
    Checkpoint {
        /// Its name.
        container: OsString,
        /// Where criu's log goes.
        work: Option<PathBuf>,
    },
    /// Restore the container of this bundle.
    Restore {
        /// A directory.
        bundle: PathBuf,
    },
    /// What advice has nothing to do with.
    Other,
    /// A checkpoint or a restore, or something else: it depends on what this option is.
    Doubtful(String),
}

/// How the runtime was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What the real runtime is called with.
    pub arguments: Vec<OsString>,
    /// Those of them that stand before the command.
    pub globals: Vec<OsString>,
    /// What it is to do.
    pub verb: Verb,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// `--log-format json`.
    pub log_is_json: bool,
    /// `--ckptadv-config`, which the runtime does not get.
    pub config: Option<PathBuf>,
}

impl Invocation {
    /// Reads a command line.
    ///
    /// * `arguments`: without the program's name.
    pub fn read(arguments: Vec<OsString>) -> Self {
        let mut it = Invocation {
            arguments: Vec::with_capacity(arguments.len()),
            globals: Vec::new(),
            verb: Verb::Other,
            log: None,
            log_is_json: false,
            config: None,
        };
        let mut unknown = None;
        let mut rest = arguments.into_iter();
        let mut verb = None;
        while let Some(argument) = rest.next() {
            let Some((name, value)) = option(&argument) else {
                verb = Some(argument);
                break;
            };
            if name == CONFIG {
                it.config = value.or_else(|| rest.next()).map(PathBuf::from);
                continue;
            }
            let name = String::from_utf8_lossy(name).into_owned();
            it.globals.push(argument.clone());
            let next = || rest.next().inspect(|value| it.globals.push(value.clone()));
            match (
                name.as_str(),
                value_of(&name, value, GLOBAL_WITH_VALUE, next),
            ) {
                ("log" | "l", Some(path)) => it.log = Some(path.into()),
                ("log-format", Some(format)) => it.log_is_json = format == "json",
                (_, None) if !GLOBAL_ALONE.contains(&name.as_str()) => {
                    unknown.get_or_insert(argument);
                }
                _ => {}
            }
        }
        let rest: Vec<OsString> = rest.collect();
        it.arguments.extend(it.globals.iter().cloned());
        it.arguments.extend(verb.iter().cloned());
        it.arguments.extend(rest.iter().cloned());
        it.verb = match verb {
            Some(verb) if verb == "restore" => restore(&rest),
            Some(verb) if verb == "checkpoint" => checkpoint(&rest),
            _ => Verb::Other,
        };
        let concerns = |argument: &OsString| argument == "checkpoint" || argument == "restore";
        if let (Verb::Other, Some(option)) = (&it.verb, unknown)
            && rest.iter().any(concerns)
        {
            it.verb = Verb::Doubtful(option.to_string_lossy().into_owned());
        }
        it
    }
}

fn restore(arguments: &[OsString]) -> Verb {
    let arguments = Arguments::read(arguments);
    if arguments.help {
        return Verb::Other;
    }
    Verb::Restore {
        bundle: arguments.bundle.unwrap_or_else(|| ".".into()),
    }
}

fn checkpoint(arguments: &[OsString]) -> Verb {
    let arguments = Arguments::read(arguments);
    let work = arguments.work.or(arguments.image);
    let mut others = arguments.others.into_iter();
    match (others.next(), others.next(), arguments.unknown) {
        _ if arguments.help => Verb::Other,
        (Some(container), None, _) => Verb::Checkpoint { container, work },
        // One of them may be the option's value.
        (Some(_), Some(_), Some(option)) => Verb::Doubtful(option),
        // The runtime complains of the others.
        (Some(container), Some(_), None) => Verb::Checkpoint { container, work },
        (None, ..) => Verb::Other,
    }
}

/// What stands behind the command.
#[derive(Default)]
struct Arguments {
    bundle: Option<PathBuf>,
    work: Option<PathBuf>,
    image: Option<PathBuf>,
    help: bool,
    /// An option that is not known.
    unknown: Option<String>,
    /// What is no option.
    others: Vec<OsString>,
}

impl Arguments {
    fn read(arguments: &[OsString]) -> Self {
        let mut it = Arguments::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                it.others.extend(rest.by_ref().cloned());
                break;
            }
            let Some((name, value)) = option(argument) else {
                it.others.push(argument.clone());
                continue;
            };
            let name = String::from_utf8_lossy(name).into_owned();
            let next = || rest.next().cloned();
            match (name.as_str(), value_of(&name, value, WITH_VALUE, next)) {
                ("bundle" | "b", Some(path)) => it.bundle = Some(path.into()),
                ("work-path", Some(path)) => it.work = Some(path.into()),
                ("image-path", Some(path)) => it.image = Some(path.into()),
                ("help" | "h" | "?" | "usage", None) => it.help = true,
                (_, None) if !ALONE.contains(&name.as_str()) => {
                    it.unknown = Some(argument.to_string_lossy().into_owned());
                }
                _ => {}
            }
        }
        it
    }
}

/// The name of an option, without the one or two dashes before it, and the value in the same word.
fn option(argument: &OsStr) -> Option<(&[u8], Option<OsString>)> {
    let name = argument.as_bytes().strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    if name.is_empty() {
        return None;
    }
    match name.iter().position(|&byte| byte == b'=') {
        None => Some((name, None)),
        Some(at) => Some((
            &name[..at],
            Some(OsString::from_vec(name[at + 1..].to_vec())),
        )),
    }
}

/// The value of an option.
///
/// * `own`: what stands in the same word.
/// * `with_value`: the options that have one, perhaps in the next word.
fn value_of(
    name: &str,
    own: Option<OsString>,
    with_value: &[&str],
    next: impl FnOnce() -> Option<OsString>,
) -> Option<OsString> {
    own.or_else(|| with_value.contains(&name).then(next).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Invocation {
        Invocation::read(line.split_whitespace().map(OsString::from).collect())
    }

    fn checkpoint(container: &str, work: &str) -> Verb {
        Verb::Checkpoint {
            container: container.into(),
            work: Some(work)
                .filter(|work| !work.is_empty())
                .map(PathBuf::from),
        }
    }

    fn restore(bundle: &str) -> Verb {
        Verb::Restore {
            bundle: bundle.into(),
        }
    }

    #[test]
    fn verbs() {
        let doubtful = |option: &str| Verb::Doubtful(option.to_owned());
        #[rustfmt::skip]
        let table = [
            // What Podman calls.
            ("create --bundle /b --pid-file /p ID", Verb::Other),
            ("start ID", Verb::Other),
            ("checkpoint --help", Verb::Other),
            ("checkpoint --image-path /i --work-path /w ID", checkpoint("ID", "/w")),
            ("delete --force ID", Verb::Other),
            ("restore --bundle /b --pid-file /p --detach --image-path /i --work-path /w ID", restore("/b")),
            ("--log-format=json --log /l restore -b /b ID", restore("/b")),
            // What containerd calls.
            ("--root /r --log /l --log-format json --systemd-cgroup restore --image-path /i --bundle /b --no-pivot --detach ID", restore("/b")),
            ("--root /r --log /l checkpoint --leave-running --file-locks ID", checkpoint("ID", "")),
            // Ways to write it.
            ("", Verb::Other),
            ("--version", Verb::Other),
            ("restore ID", restore(".")),
            ("restore --bundle=/b ID", restore("/b")),
            ("restore -bundle /b ID", restore("/b")),
            ("restore -b=/b ID", restore("/b")),
            ("restore --bundle /a --bundle /b ID", restore("/b")),
            ("restore ID --bundle /b", restore("/b")),
            ("restore --pid-file --bundle --bundle /b ID", restore("/b")),
            ("restore --pid-file=x -h", Verb::Other),
            ("restore --", restore(".")),
            ("--debug --root restore state ID", Verb::Other),
            ("--root=restore checkpoint ID", checkpoint("ID", "")),
            ("--rootless true --criu /c checkpoint ID", checkpoint("ID", "")),
            ("--cgroup-manager disabled restore ID", restore(".")),
            ("checkpoint -- --help", checkpoint("--help", "")),
            ("checkpoint", Verb::Other),
            ("checkpoint a b", checkpoint("a", "")),
            ("checkpoint --image-path /i ID", checkpoint("ID", "/i")),
            ("checkpoint --page-server 1.2.3.4:5 --status-fd 3 ID", checkpoint("ID", "")),
            ("checkpoint --new ID", checkpoint("ID", "")),
            ("checkpoint --new=value ID", checkpoint("ID", "")),
            // Options that nobody knows.
            ("--new restore ID", restore(".")),
            ("--new value restore ID", doubtful("--new")),
            ("--new value state ID", Verb::Other),
            ("--new=value restore ID", restore(".")),
            ("checkpoint --new value ID", doubtful("--new")),
            // No option is another's value here.
            ("exec ID restore", Verb::Other),
            ("--root", Verb::Other),
        ];
        for (line, verb) in table {
            let invocation = read(line);
            assert_eq!(invocation.verb, verb, "{line}");
            let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(invocation.arguments, words, "{line}");
        }
    }

    #[test]
    fn what_stands_before_the_command() {
        let invocation =
            read("--ckptadv-config=/c --root /r --log /l --log-format json checkpoint ID");
        assert_eq!(invocation.config, Some("/c".into()));
        assert_eq!(invocation.log, Some("/l".into()));
        assert!(invocation.log_is_json);
        let globals = ["--root", "/r", "--log", "/l", "--log-format", "json"];
        assert_eq!(invocation.globals, globals);
        let rest = ["checkpoint", "ID"];
        assert_eq!(invocation.arguments, [&globals[..], &rest].concat());
        let behind = read("exec --ckptadv-config=/c ID");
        assert_eq!(behind.config, None);
        assert_eq!(behind.arguments.len(), 3);
    }
}
