//! What a criu was started to do, by its arguments (criu(8)).

/// What the process is about to do, as far as advice is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Restores one image and ends.
    Restore,
    /// Does what its starter asks for over a socket, a restore perhaps.
    Work,
    /// Does what anybody asks for over a socket.
    Serve,
    /// Dumps.
    Dump,
}

/// How a criu was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What it does.
    pub verb: Verb,
    /// `--stream`: the image does not come out of files.
    pub streams: bool,
}

/// Options that take the next argument, where it does not stand in the same.
const WITH_ARGUMENT: &[&str] = &[
    "action-script",
    "address",
    "cgroup-dump-controller",
    "cgroup-props",
    "cgroup-props-file",
    "cgroup-root",
    "cgroup-yard",
    "close",
    "config",
    "empty-ns",
    "enable-fs",
    "ext-mount-map",
    "external",
    "feature",
    "file-validation",
    "freeze-cgroup",
    "ghost-limit",
    "images-dir",
    "inherit-fd",
    "irmap-scan-path",
    "join-ns",
    "libdir",
    "log-file",
    "lsm-mount-context",
    "lsm-profile",
    "network-lock",
    "pidfile",
    "port",
    "pre-dump-mode",
    "prev-images-dir",
    "ps-socket",
    "root",
    "skip-mnt",
    "status-fd",
    "timeout",
    "tls-cacert",
    "tls-cacrl",
    "tls-cert",
    "tls-key",
    "tree",
    "veth-pair",
    "work-dir",
];

/// Options without an argument that are the beginning of one with.
const SWITCHES: &[&str] = &["tls"];

/// Short options that take the next argument.
const SHORT_WITH_ARGUMENT: &[u8] = b"tDorJWLM";

/// Short options whose argument, if any, is the rest of the word.
const SHORT_WITH_REST: &[u8] = b"vx";

const VERBS: &[(&str, Verb)] = &[
    ("restore", Verb::Restore),
    ("swrk", Verb::Work),
    ("service", Verb::Serve),
    ("dump", Verb::Dump),
];

/// Verbs that neither restore nor dump.
const OTHER_VERBS: &[&str] = &[
    "check",
    "page-server",
    "pre-dump",
    "dedup",
    "lazy-pages",
    "cpuinfo",
    "exec",
    "show",
];

/// Reads the arguments of a criu, its name first; `None` where it does nothing
/// that advice is about.
///
/// The words are read as getopt_long(3) reads them: options anywhere, long ones
/// abbreviated. A word that is no verb is taken for the argument of an option
/// that only a newer criu knows.
pub fn parse(arguments: &[Vec<u8>]) -> Option<Invocation> {
    let mut words = arguments.iter().skip(1);
    let mut verb = None;
    let mut streams = false;
    let mut options = true;
    while let Some(word) = words.next() {
        let word = word.as_slice();
        if options && word == b"--" {
            options = false;
        } else if let (true, Some(long)) = (options, word.strip_prefix(b"--")) {
            let long = String::from_utf8_lossy(long);
            match long.as_ref() {
                "help" | "version" => return None,
                "stream" => streams = true,
                "no-stream" => streams = false,
                name if takes_next(name) => {
                    words.next();
                }
                _ => {}
            }
        } else if let (true, Some(short)) = (options && word.len() > 1, word.strip_prefix(b"-")) {
            match short_options(short) {
                Short::Ends => return None,
                Short::TakesNext => {
                    words.next();
                }
                Short::Complete => {}
            }
        } else if verb.is_none() {
            let word = String::from_utf8_lossy(word);
            if OTHER_VERBS.contains(&word.as_ref()) {
                return None;
            }
            verb = VERBS.iter().find(|(name, _)| *name == word);
        }
    }
    verb.map(|&(_, verb)| Invocation { verb, streams })
}

/// Whether a long option, perhaps abbreviated, takes the next word.
fn takes_next(name: &str) -> bool {
    if name.contains('=') || name.is_empty() {
        return false;
    }
    WITH_ARGUMENT.contains(&name)
        || !SWITCHES.contains(&name) && WITH_ARGUMENT.iter().any(|long| long.starts_with(name))
}

enum Short {
    Complete,
    TakesNext,
    /// -h or -V: nothing is done.
    Ends,
}

fn short_options(word: &[u8]) -> Short {
    for (index, option) in word.iter().enumerate() {
        if matches!(option, b'h' | b'V') {
            return Short::Ends;
        }
        if SHORT_WITH_REST.contains(option) {
            return Short::Complete;
        }
        if SHORT_WITH_ARGUMENT.contains(option) {
            return match index + 1 == word.len() {
                true => Short::TakesNext,
                false => Short::Complete,
            };
        }
    }
    Short::Complete
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(line: &str) -> Option<Verb> {
        let words: Vec<Vec<u8>> = line.split(' ').map(|w| w.as_bytes().to_vec()).collect();
        parse(&words).map(|invocation| invocation.verb)
    }

    #[test]
    fn the_verb_is_found_among_options() {
        for line in [
            "criu restore",
            "criu restore -D dir -d -v4",
            "criu -D dir restore",
            "criu -d -D dump restore -o check",
            "criu -vvvv --images-dir dump restore",
            "criu --images-dir=dump restore",
            "criu --images dump restore",
            "criu -Ddump restore",
            "criu -dD dump restore",
            "criu -jo dump restore",
            "criu --inherit-fd fd[1]:dump restore --tcp-established",
            "criu -- restore",
            "criu --new-option argument restore",
            "criu restore --exec-cmd -- dump --help",
            "criu -x restore",
            "criu --no-stream restore",
        ] {
            assert_eq!(verb(line), Some(Verb::Restore), "{line}");
        }
        assert_eq!(verb("criu swrk 3"), Some(Verb::Work));
        assert_eq!(verb("criu service -d --address /s"), Some(Verb::Serve));
        assert_eq!(verb("criu dump -t 7 -D restore"), Some(Verb::Dump));
        for line in [
            "criu",
            "criu check",
            "criu lazy-pages -D restore",
            "criu -V restore",
            "criu restore --help",
            "criu restore -h",
            "criu -D restore",
            "criu page-server --address restore",
            "criu cpuinfo dump",
        ] {
            assert_eq!(verb(line), None, "{line}");
        }
    }

    #[test]
    fn a_stream_is_seen() {
        let words = |line: &str| -> Vec<Vec<u8>> {
            line.split(' ').map(|w| w.as_bytes().to_vec()).collect()
        };
        let streams = |line| parse(&words(line)).map(|i| i.streams);
        assert_eq!(streams("criu restore --stream"), Some(true));
        assert_eq!(streams("criu restore -D --stream"), Some(false));
    }
}
