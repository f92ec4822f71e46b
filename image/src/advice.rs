//! Advice: what somebody wants for which descriptors of the restarted tasks.
//!
//! [`list`] reads the LIST grammar of the environment and the options (man page
//! ckpt_advice(7)); [`glob`] is its path pattern.

pub mod glob;
mod list;

pub use list::{parse_kind, parse_list};

use glob::Glob;
use std::fmt;
use std::sync::Arc;

/// All the advice of one restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// In the order in which they were given.
    pub items: Vec<Item>,
    /// What an item that selects nothing does.
    pub strictness: Strictness,
}

impl Advice {
    /// True where nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether some item takes the caller's descriptor of this number, to
    /// preserve it or as a source.
    pub fn wants(&self, number: i32) -> bool {
        self.items.iter().any(|item| item.wants(number))
    }

    /// The first and last number of what each item takes so.
    pub fn wanted(&self) -> impl Iterator<Item = (i32, i32)> {
        self.items.iter().filter_map(Item::wanted)
    }

    /// Whether some item preserves this number: it is there for who asks for it, too.
    pub fn offers(&self, number: i32) -> bool {
        self.items
            .iter()
            .any(|item| matches!(item.action, Action::Preserve | Action::Add) && item.wants(number))
    }

    /// The paths that items have as their source, each once.
    pub fn paths(&self) -> Vec<Arc<[u8]>> {
        let mut paths = Vec::new();
        for item in &self.items {
            if let Action::Substitute(Source::Path(path)) = &item.action
                && !paths.contains(path)
            {
                paths.push(path.clone());
            }
        }
        paths
    }
}

/// One item of advice: an action on what it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What to do.
    pub action: Action,
    /// In which task; `None`: see [`crate::plan`].
    pub task: Option<TaskSelector>,
    /// Which descriptors there.
    pub target: Target,
    /// The variable, option or call that it came from.
    pub variable: String,
    /// As it was written.
    pub text: String,
}

impl Item {
    fn wanted(&self) -> Option<(i32, i32)> {
        match (&self.action, &self.target) {
            (Action::Ignore | Action::Substitute(Source::Path(_)), _) => None,
            (Action::Substitute(Source::Descriptor(from)), _) => Some((*from, *from)),
            (Action::Preserve | Action::Add, target) => target.numbers(),
        }
    }

    fn wants(&self, number: i32) -> bool {
        self.wanted()
            .is_some_and(|(from, to)| (from..=to).contains(&number))
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.variable, self.text)
    }
}

/// What is to become of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// IGNORE: what the image has is dropped.
    Ignore,
    /// PRESERVE and IGNORE: the caller's descriptor of the same number, whatever
    /// the image has.
    Preserve,
    /// PRESERVE alone: the caller's descriptor, and the image must not have the
    /// number.
    Add,
    /// From another number, or a path.
    Substitute(Source),
}

/// Where a substituted descriptor comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A descriptor of the caller.
    Descriptor(i32),
    /// An absolute path.
    Path(Arc<[u8]>),
}

/// Which tasks an item means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSelector {
    /// The task with this pid in the image.
    Pid(i32),
    /// The image's first task.
    Root,
    /// Every task.
    Every,
}

/// Which descriptors of a task an item means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One number.
    Number(i32),
    /// From the first number to the second, both included; to the end where it
    /// is `None`.
    Range(i32, Option<i32>),
    /// Every descriptor whose file's path matches.
    Path(Glob),
    /// Every descriptor of a kind.
    Kind(Kind),
    /// One open file description.
    Id(u64),
}

impl Target {
    /// The first and last number, where it is numbers that are meant.
    pub fn numbers(&self) -> Option<(i32, i32)> {
        match *self {
            Target::Number(number) => Some((number, number)),
            Target::Range(from, to) => Some((from, to.unwrap_or(i32::MAX))),
            Target::Path(_) | Target::Kind(_) | Target::Id(_) => None,
        }
    }
}

/// What an item that selects nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing.
    BestEffort,
    /// One line on stderr.
    #[default]
    Warn,
    /// The restart is refused.
    Strict,
}

macro_rules! kinds {
    ($($variant:ident $name:literal $doc:literal),* $(,)?) => {
        /// The kinds of file that selectors name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $(#[doc = $doc] $variant),* }

        impl Kind {
            /// Every kind, in the order of the man page.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// Its name in the grammar and in tables.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name),* }
            }
        }
    };
}

kinds! {
    Reg "reg" "Regular file.",
    Dir "dir" "Directory.",
    Chr "chr" "Character device, terminals excepted.",
    Blk "blk" "Block device.",
    Pipe "pipe" "End of an anonymous pipe.",
    Fifo "fifo" "End of a named pipe.",
    Unix "unix" "Unix domain socket.",
    Inet "inet" "Internet socket, version 4 or 6.",
    Packet "packet" "Packet socket.",
    Netlink "netlink" "Netlink socket.",
    Tun "tun" "Tun or tap device.",
    Tty "tty" "Terminal, or the master of one.",
    Epoll "epoll" "Epoll set.",
    Eventfd "eventfd" "Event counter.",
    Signalfd "signalfd" "Signal descriptor.",
    Timerfd "timerfd" "Timer descriptor.",
    Inotify "inotify" "Inotify instance.",
    Fanotify "fanotify" "Fanotify group.",
    Memfd "memfd" "Anonymous memory file.",
    Pidfd "pidfd" "Process descriptor.",
    Ns "ns" "Namespace.",
    Bpf "bpf" "BPF map or program.",
    Other "other" "Anything else.",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
