//! Random recipes, and random advice.

use super::build::{Datagram, File, Kind, Machine, Name, Process, Recipe, Sender, pid};
use super::check::View;
use super::meaning::{Item, Task};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// Any image.
pub fn recipe() -> impl Strategy<Value = Recipe> {
    // Without the masters of terminals, which make some requests impossible; with
    // files that defer nothing and have no two ends; with sockets, with terminals
    // above all.
    prop_oneof![
        2 => recipe_of(vec(file(any_kind().boxed()), 1..9).boxed()),
        3 => recipe_of(vec(file(kind_without_master().boxed()), 1..9).boxed()),
        2 => recipe_of(vec(file(plain_kind().boxed()), 1..7).boxed()),
        3 => recipe_of(vec(file(mostly_sockets().boxed()), 2..9).boxed()),
        1 => recipe_of(vec(file(mostly_terminals().boxed()), 2..6).boxed()),
    ]
}

fn recipe_of(files: BoxedStrategy<Vec<File>>) -> impl Strategy<Value = Recipe> {
    // One process alone is what can be known in advance. The others share tables
    // here and there, or all of them one.
    let processes = prop_oneof![
        2 => vec(process(), 1..2),
        3 => vec(process(), 1..5),
        1 => vec(process(), 2..5).prop_map(|mut processes| {
            for process in &mut processes[1..] {
                process.shares = Some(0);
            }
            processes
        }),
    ];
    let surplus = prop_oneof![8 => Just(0), 1 => 1u16..40, 1 => 4100u16..5000];
    (
        any::<bool>(),
        machine(),
        processes,
        files,
        vec((0u8..20, any_index()), 0..3),
        any::<bool>(),
        surplus,
    )
        .prop_map(
            |(late, machine, processes, files, mut early, backwards, surplus)| {
                // Only files that somebody has: of others the engine knows too late.
                early.retain(|&(_, file)| has(&processes, files.len(), file));
                Recipe {
                    late,
                    machine,
                    lean: false,
                    processes,
                    files,
                    early,
                    backwards,
                    surplus,
                }
            },
        )
}

/// Some process has a file in a table of its own.
fn has(processes: &[Process], files: usize, file: usize) -> bool {
    let own = |(index, process): (usize, &Process)| {
        index == 0 || (!process.zombie && process.shares.is_none())
    };
    let with_own = processes.iter().enumerate().filter(|of| own(*of));
    let mut held = with_own.flat_map(|(_, process)| process.table.values());
    held.any(|(held, _)| held % files == file % files)
}

fn machine() -> impl Strategy<Value = Machine> {
    prop_oneof![
        Just(Machine::X86_64),
        Just(Machine::X86_32),
        Just(Machine::S390x),
    ]
}

fn any_index() -> impl Strategy<Value = usize> {
    0usize..32
}

fn process() -> impl Strategy<Value = Process> {
    (
        (
            prop::bool::weighted(0.15),
            any::<bool>(),
            0usize..3,
            option::weighted(0.3, any_index()),
        ),
        btree_map(0i32..8, (any_index(), any::<bool>()), 0..8),
        vec(any_index(), 0..3),
        option::weighted(0.2, any_index()),
        option::weighted(0.3, 0u8..2),
        0u8..3,
    )
        .prop_map(
            |((zombie, nested, threads, shares), table, maps, exe, leader, pages)| Process {
                zombie,
                nested,
                threads,
                shares,
                table,
                maps,
                exe,
                leader,
                pages,
            },
        )
}

fn file(kind: BoxedStrategy<Kind>) -> impl Strategy<Value = File> {
    (kind, prop::bool::weighted(0.3)).prop_map(|(kind, own_cred)| File { kind, own_cred })
}

fn plain_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => (0u8..3, any::<bool>(), 0u32..9000).prop_map(|(a, b, c)| Kind::Regular(a, b, c)),
        1 => Just(Kind::Directory),
        1 => Just(Kind::Device),
        2 => (0u8..2).prop_map(Kind::Terminal),
        1 => watches(),
    ]
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        10 => kind_without_master(),
        1 => (0u8..2).prop_map(Kind::Master),
    ]
}

fn kind_without_master() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => plain_kind(),
        2 => (0u8..2, any::<bool>(), 0u8..40).prop_map(|(a, b, c)| Kind::Pipe(a, b, c)),
        1 => (0u8..9).prop_map(Kind::Fifo),
        1 => (0u32..9).prop_map(Kind::Eventfd),
        3 => socket(),
        1 => watches(),
    ]
}

fn mostly_terminals() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => (0u8..2).prop_map(Kind::Master),
        3 => (0u8..2).prop_map(Kind::Terminal),
        1 => watches(),
        1 => plain_kind(),
    ]
}

fn mostly_sockets() -> impl Strategy<Value = Kind> {
    prop_oneof![
        1 => plain_kind(),
        5 => socket(),
        1 => watches(),
    ]
}

fn socket() -> impl Strategy<Value = Kind> {
    let name = || prop_oneof![Just(Name::Path), Just(Name::Relative), Just(Name::Abstract)];
    let sender = prop_oneof![
        2 => any_index().prop_map(Sender::Live),
        1 => (0u8..2).prop_map(Sender::Dead),
    ];
    let datagram = (
        option::weighted(0.7, name()),
        prop::bool::weighted(0.2),
        option::weighted(0.5, any_index()),
        vec(sender, 0..4),
    );
    prop_oneof![
        2 => (0u8..4, any::<bool>(), 0u8..18).prop_map(|(a, b, c)| Kind::Socket(a, b, c)),
        1 => name().prop_map(Kind::Listener),
        2 => datagram.prop_map(|(name, unlinked, to, messages)| Kind::Datagram(Datagram {
            name,
            unlinked,
            to,
            messages,
        })),
        1 => (0u8..3).prop_map(Kind::Port),
        1 => (0u8..3, 0u8..3).prop_map(|(a, b)| Kind::Udp(a, b)),
        2 => (0u8..2, any::<bool>(), 0u8..3).prop_map(|(a, b, c)| Kind::Connection(a, b, c)),
    ]
}

fn watches() -> impl Strategy<Value = Kind> {
    vec((any_index(), 0i32..8), 0..5).prop_map(Kind::Epoll)
}

/// Any advice by numbers.
pub fn advice() -> impl Strategy<Value = Vec<Item>> {
    vec(item(), 1..5)
}

fn item() -> impl Strategy<Value = Item> {
    let task = prop_oneof![
        3 => Just(Task::Unnamed),
        1 => Just(Task::Root),
        2 => Just(Task::Every),
        3 => (0usize..4, 0usize..2).prop_map(|(p, t)| Task::Pid(pid(p, t))),
    ];
    let target = prop_oneof![
        3 => (0i32..9).prop_map(|n| (n, Some(n))),
        2 => (0i32..9, 0i32..4).prop_map(|(n, more)| (n, Some(n + more))),
        1 => (0i32..9).prop_map(|n| (n, None)),
    ];
    (prop::bool::weighted(0.4), task, target).prop_map(|(preserve, task, (from, to))| Item {
        preserve,
        task,
        from,
        to,
    })
}

/// A change to an image that a sender, a disk or an enemy might make.
#[derive(Clone, Debug)]
pub enum Damage {
    /// At a place, in 1/65536 of the length.
    Flip(u16, u8),
    /// A 32-bit word there.
    Word(u16, u32),
    /// The rest is missing.
    Cut(u16),
    /// A record's length, by the record's number.
    Length(u16, u32),
    /// A field of a record, by its word.
    Field(u16, u8, u32),
    /// A record twice.
    Twice(u16),
    /// A record less.
    Less(u16),
    /// Two records in each other's place.
    Swapped(u16, u16),
    /// A word of one record into another: loops, objects announced twice, objects
    /// of another type.
    Copied((u16, u8), (u16, u8)),
    /// Bytes behind the end.
    Surplus(u8),
}

/// Any of them.
pub fn damage() -> impl Strategy<Value = Damage> {
    let value = || {
        prop_oneof![
            Just(0u32),
            Just(1),
            Just(7),
            Just(8),
            Just(0x7fff_ffff),
            Just(0x8000_0000),
            Just(0xffff_ffff),
            Just(0x7f00_000a),
            0u32..40,
            any::<u32>(),
        ]
    };
    let place = || (any::<u16>(), 2u8..14);
    prop_oneof![
        1 => (any::<u16>(), any::<u8>()).prop_map(|(a, b)| Damage::Flip(a, b)),
        1 => (any::<u16>(), value()).prop_map(|(a, b)| Damage::Word(a, b)),
        1 => any::<u16>().prop_map(Damage::Cut),
        1 => (any::<u16>(), value()).prop_map(|(a, b)| Damage::Length(a, b)),
        4 => (any::<u16>(), 2u8..14, value()).prop_map(|(a, b, c)| Damage::Field(a, b, c)),
        2 => any::<u16>().prop_map(Damage::Twice),
        2 => any::<u16>().prop_map(Damage::Less),
        2 => (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Damage::Swapped(a, b)),
        3 => (place(), place()).prop_map(|(a, b)| Damage::Copied(a, b)),
        1 => any::<u8>().prop_map(Damage::Surplus),
    ]
}

impl Damage {
    /// Does it. The view is that of the image before any damage; what no longer
    /// fits is left out.
    pub fn to(&self, image: &mut Vec<u8>, view: &View) {
        let records = &view.records;
        let put = |image: &mut [u8], at: usize, value: u32| {
            if let Some(field) = image.get_mut(at..at + 4) {
                field.copy_from_slice(&match view.big_endian {
                    true => value.to_be_bytes(),
                    false => value.to_le_bytes(),
                });
            }
        };
        let place = |of: u16, len: usize| usize::from(of) * len / 65536;
        let record = |of: u16, image: &[u8]| {
            let (at, len) = records[place(of, records.len())];
            (at + len <= image.len()).then_some(at..at + len)
        };
        match *self {
            Damage::Flip(at, bits) => {
                let at = place(at, image.len());
                image[at] ^= bits;
            }
            Damage::Word(at, value) => {
                let at = place(at, image.len().saturating_sub(4));
                put(image, at, value);
            }
            Damage::Cut(at) => image.truncate(place(at, image.len()).max(1)),
            Damage::Length(of, value) => {
                if let Some(range) = record(of, image) {
                    put(image, range.start + 4, value);
                }
            }
            Damage::Field(of, word, value) => {
                if let Some(range) = record(of, image) {
                    let at = range.start + usize::from(word) * 4;
                    if at + 4 <= range.end {
                        put(image, at, value);
                    }
                }
            }
            Damage::Copied((from, word), (to, place)) => {
                if let (Some(from), Some(to)) = (record(from, image), record(to, image)) {
                    let from = from.start + usize::from(word) * 4;
                    let at = to.start + usize::from(place) * 4;
                    if from + 4 <= image.len() && at + 4 <= to.end {
                        image.copy_within(from..from + 4, at);
                    }
                }
            }
            Damage::Surplus(len) => image.extend(vec![9; len.into()]),
            Damage::Twice(of) => {
                if let Some(range) = record(of, image) {
                    let copy = image[range.clone()].to_vec();
                    image.splice(range.end..range.end, copy);
                }
            }
            Damage::Less(of) => {
                if let Some(range) = record(of, image) {
                    image.drain(range);
                }
            }
            Damage::Swapped(a, b) => {
                if let (Some(a), Some(b)) = (record(a.min(b), image), record(a.max(b), image))
                    && a.end <= b.start
                {
                    let (first, second) = (image[a.clone()].to_vec(), image[b.clone()].to_vec());
                    image.splice(b, first);
                    image.splice(a, second);
                }
            }
        }
    }
}
