//! What tells the descriptors of two images apart, as a task and a number name them.
//!
//! The numbers by which an image knows its files mean nothing in another: what counts is
//! what a descriptor leads to, and with which others it shares it.

use crate::json::{Array, Json, Lines, Object};
use crate::listing::{Description, Listing, access, flags, status_flags};
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};

/// The version of what [`Difference`] is as JSON. A field that goes or changes its
/// meaning makes it a higher one, a field that comes does not.
pub const SCHEMA: u32 = 1;

/// What differs.
pub struct Difference<'a> {
    /// The images.
    pub images: [&'a Listing; 2],
    /// Processes that only one of them has.
    pub tasks: Vec<Task<'a>>,
    /// Descriptors that only one of them has, or that are not the same, by task and
    /// number.
    pub descriptors: Vec<Descriptor<'a>>,
}

/// What became of a thing from the first image to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it.
    Changed,
}

impl Change {
    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Changed => "changed",
        }
    }
}

/// A process of one image.
pub struct Task<'a> {
    /// Its pid.
    pub pid: i32,
    /// Its name.
    pub command: &'a str,
    /// Which image has it.
    pub change: Change,
}

/// A descriptor that is not the same in both.
pub struct Descriptor<'a> {
    /// The task.
    pub task: i32,
    /// The number.
    pub number: i32,
    /// What it is in the first image, and in the second.
    pub sides: [Option<Side<'a>>; 2],
    /// What is not the same, where both have it.
    pub fields: Vec<Field>,
}

impl Descriptor<'_> {
    /// What became of it.
    pub fn change(&self) -> Change {
        match &self.sides {
            [None, _] => Change::Added,
            [_, None] => Change::Removed,
            _ => Change::Changed,
        }
    }
}

/// A descriptor of one image.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// What it leads to.
    pub description: &'a Description,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
    /// Whether something holds what is at the other end, where there can be one.
    other_end: Option<bool>,
    /// The place of the description in its listing.
    place: usize,
}

/// What may be different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// What kind of file it is.
    Kind,
    /// Its path, address or name.
    Name,
    /// Access mode and status flags.
    Flags,
    /// Its offset.
    Offset,
    /// Where a socket stands.
    State,
    /// Whom it is connected to.
    Remote,
    /// What is at the other end: something or nothing.
    OtherEnd,
    /// How many bytes wait.
    Queued,
    /// What an eventfd counts.
    Count,
    /// Which numbers an epoll set watches.
    Watches,
    /// FD_CLOEXEC.
    CloseOnExec,
    /// With which other descriptors it shares the open file description, of those that
    /// both images have.
    Sharing,
}

impl Field {
    const OF_A_SIDE: [Field; 11] = [
        Field::Kind,
        Field::Name,
        Field::Flags,
        Field::Offset,
        Field::State,
        Field::Remote,
        Field::OtherEnd,
        Field::Queued,
        Field::Count,
        Field::Watches,
        Field::CloseOnExec,
    ];

    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Field::Kind => "kind",
            Field::Name => "name",
            Field::Flags => "flags",
            Field::Offset => "offset",
            Field::State => "state",
            Field::Remote => "remote",
            Field::OtherEnd => "other_end",
            Field::Queued => "queued",
            Field::Count => "count",
            Field::Watches => "watches",
            Field::CloseOnExec => "close_on_exec",
            Field::Sharing => "sharing",
        }
    }
}

impl Side<'_> {
    /// A field for people; "none" where it has none.
    pub fn text(&self, field: Field) -> String {
        let it = self.description;
        let text = match field {
            Field::Kind => Some(it.kind.to_string()),
            Field::Name => Some(it.name.clone()).filter(|name| !name.is_empty()),
            Field::Flags => Some(flags(it.flags)),
            Field::Offset => it.position.map(|position| position.to_string()),
            Field::State => it.state.map(str::to_owned),
            Field::Remote => it.remote.clone(),
            Field::OtherEnd => self.other_end.map(|open| match open {
                true => "open".to_owned(),
                false => "closed".to_owned(),
            }),
            Field::Queued => it.queued.map(|bytes| bytes.to_string()),
            Field::Count => it.count.map(|count| count.to_string()),
            Field::Watches => Some(numbers(&self.watches())).filter(|all| !all.is_empty()),
            Field::CloseOnExec => Some(self.close_on_exec.to_string()),
            Field::Sharing => None,
        };
        text.unwrap_or_else(|| "none".to_owned())
    }

    fn is_as(&self, other: &Side<'_>, field: Field) -> bool {
        let (a, b) = (self.description, other.description);
        match field {
            Field::Kind => a.kind == b.kind,
            Field::Name => known_name(a) == known_name(b),
            Field::Flags => {
                access(a.flags) == access(b.flags)
                    && status_flags(a.flags).eq(status_flags(b.flags))
            }
            Field::Offset => a.position == b.position,
            Field::State => a.state == b.state,
            Field::Remote => a.remote == b.remote,
            Field::OtherEnd => self.other_end == other.other_end,
            Field::Queued => a.queued == b.queued,
            Field::Count => a.count == b.count,
            Field::Watches => self.watches() == other.watches(),
            Field::CloseOnExec => self.close_on_exec == other.close_on_exec,
            Field::Sharing => true,
        }
    }

    fn watches(&self) -> Vec<i32> {
        let watches = self.description.watches.iter();
        let mut numbers: Vec<i32> = watches.map(|&(number, _)| number).collect();
        numbers.sort_unstable();
        numbers
    }
}

fn numbers(all: &[i32]) -> String {
    let all: Vec<String> = all.iter().map(i32::to_string).collect();
    all.join(",")
}

/// A name that means the same in every image.
fn known_name(it: &Description) -> Option<&str> {
    let of_this_image = ["pipe:[", "socket:["]
        .iter()
        .any(|it_is| it.name.starts_with(it_is));
    (!of_this_image).then_some(it.name.as_str())
}

/// Whether anything keeps an open file description: some are in an image only for their
/// other end to find that they were closed.
fn is_held(it: &Description) -> bool {
    !it.holders.is_empty() || !it.references.is_empty()
}

/// The descriptors of an image, by task and number.
type Table<'a> = BTreeMap<(i32, i32), Side<'a>>;

fn table(listing: &Listing) -> Table<'_> {
    let places = listing.descriptions.iter().enumerate();
    let places: HashMap<u64, usize> = places.map(|(place, it)| (it.id, place)).collect();
    // Thousands may share the list of their ends.
    let mut held: HashMap<*const u64, usize> = HashMap::new();
    for ends in listing
        .descriptions
        .iter()
        .filter_map(|it| it.other_ends.as_ref())
    {
        held.entry(ends.as_ptr()).or_insert_with(|| {
            let files = ends
                .iter()
                .filter_map(|id| Some(&listing.descriptions[*places.get(id)?]));
            files.filter(|it| is_held(it)).count()
        });
    }
    let other_end = |it: &Description| {
        let ends = it.other_ends.as_ref()?;
        let itself = is_held(it) && ends.binary_search(&it.id).is_ok();
        Some(held.get(&ends.as_ptr()).copied().unwrap_or(0) > usize::from(itself))
    };
    let mut table = Table::new();
    for files in &listing.tables {
        for descriptor in &files.descriptors {
            let Some(&place) = places.get(&descriptor.description) else {
                continue;
            };
            let side = Side {
                description: &listing.descriptions[place],
                close_on_exec: descriptor.close_on_exec,
                other_end: other_end(&listing.descriptions[place]),
                place,
            };
            let tasks = files.tasks.iter();
            table.extend(tasks.map(|&task| ((task, descriptor.number), side)));
        }
    }
    table
}

/// Compares two images.
pub fn difference<'a>(images: [&'a Listing; 2]) -> Difference<'a> {
    let [before, after] = images.map(table);
    let both = before
        .iter()
        .filter_map(|(key, a)| Some((a, after.get(key)?)));
    // Descriptors share the same in both where the files of the one that these two lead
    // to are the files of the other.
    let mut together: HashMap<(usize, usize), usize> = HashMap::new();
    let mut alone: [HashMap<usize, usize>; 2] = Default::default();
    for (a, b) in both {
        *together.entry((a.place, b.place)).or_default() += 1;
        *alone[0].entry(a.place).or_default() += 1;
        *alone[1].entry(b.place).or_default() += 1;
    }
    let shares_the_same = |a: &Side<'_>, b: &Side<'_>| {
        let count = together.get(&(a.place, b.place));
        count == alone[0].get(&a.place) && count == alone[1].get(&b.place)
    };
    let mut descriptors = Vec::new();
    for (&(task, number), a) in &before {
        let b = after.get(&(task, number));
        let mut fields = Vec::new();
        if let Some(b) = b {
            let all = Field::OF_A_SIDE.into_iter();
            fields.extend(all.filter(|&field| !a.is_as(b, field)));
            if !shares_the_same(a, b) {
                fields.push(Field::Sharing);
            }
            if fields.is_empty() {
                continue;
            }
        }
        descriptors.push(Descriptor {
            task,
            number,
            sides: [Some(*a), b.copied()],
            fields,
        });
    }
    let new = after.iter().filter(|(key, _)| !before.contains_key(key));
    descriptors.extend(new.map(|(&(task, number), b)| Descriptor {
        task,
        number,
        sides: [None, Some(*b)],
        fields: Vec::new(),
    }));
    descriptors.sort_by_key(|it| (it.task, it.number));
    Difference {
        images,
        tasks: tasks(images),
        descriptors,
    }
}

fn tasks(images: [&Listing; 2]) -> Vec<Task<'_>> {
    let [before, after] = images.map(|listing| {
        let processes = listing.tasks.iter().filter(|task| task.pid == task.process);
        let named = processes.map(|task| (task.pid, task.command.as_str()));
        named.collect::<BTreeMap<i32, &str>>()
    });
    let only = |one: &BTreeMap<i32, &'_ str>, other: &BTreeMap<i32, &'_ str>| {
        let pids = one.keys().filter(|pid| !other.contains_key(pid));
        pids.copied().collect::<Vec<i32>>()
    };
    let task = |pid, command, change| Task {
        pid,
        command,
        change,
    };
    let gone = only(&before, &after).into_iter();
    let come = only(&after, &before).into_iter();
    let mut all: Vec<Task<'_>> = gone
        .map(|pid| task(pid, before[&pid], Change::Removed))
        .chain(come.map(|pid| task(pid, after[&pid], Change::Added)))
        .collect();
    all.sort_by_key(|task| task.pid);
    all
}

impl Difference<'_> {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.descriptors.is_empty()
    }
}

impl Json for Difference<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("version", &SCHEMA)?
            .field("same", &self.is_empty())?
            .field("images", &Array(self.images.iter().map(|it| Head(it))))?
            .field("tasks", &Lines(self.tasks.iter()))?
            .field("descriptors", &Lines(self.descriptors.iter()))?
            .end()
    }
}

struct Head<'a>(&'a Listing);

impl Json for Head<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("engine", self.0.engine.name())?
            .field("format", &self.0.format)?
            .end()
    }
}

impl Json for Task<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Object::new(out)
            .field("pid", &self.pid)?
            .field("command", self.command)?
            .field("change", self.change.name())?
            .end()
    }
}

impl Json for Descriptor<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let [before, after] = &self.sides;
        Object::new(out)
            .field("task", &self.task)?
            .field("number", &self.number)?
            .field("change", self.change().name())?
            .field("fields", &Array(self.fields.iter().map(|it| it.name())))?
            .field("before", before)?
            .field("after", after)?
            .end()
    }
}

impl Json for Side<'_> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        let it = self.description;
        let object = Object::new(out).field("description", &it.id)?;
        it.fields(object)?
            .field("other_end", &self.other_end)?
            .field("close_on_exec", &self.close_on_exec)?
            .end()
    }
}
