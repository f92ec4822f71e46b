//! Holds an image against the forms of its records, as a restarting kernel would: lengths,
//! references to what has been announced, counts and what they count.
//!
//! Told every prefix, and every record that is put together, in order. Of a record that
//! passes it sees the prefix; memory pages are among those. What a kernel takes and none
//! ever wrote (an announcement between a count and what it counts) is taken for damage.

use super::forms::{self, Form, Length, Object};
use super::layout::{Layout, TREE_ENTRY, Version, WATCH, file_type, fixed};
use super::records::{Prefix, Record};
use super::spine::Spine;
use crate::Error;
use std::collections::{BTreeSet, HashMap};

/// The flags with which a kernel refuses to open a file again: to create it, to fail
/// where it is there, to take no terminal, to truncate it.
const REFUSED_FLAGS: u32 = 0o100 | 0o200 | 0o400 | 0o1000;
/// What a line discipline holds, in bytes.
const TTY_BUFFER: u32 = 4096;
/// A kernel calls itself for each object inside another, on a stack that ends.
const DEEPEST: usize = 64;
/// A kernel takes no more fragments of one message.
const MAX_FRAGMENTS: u16 = 17;
/// The kinds of mapping that are shared memory without a name or of SysV, whose file is
/// announced nowhere.
const SHARED_MEMORY: [u32; 4] = [4, 5, 7, 8];

/// What an objref names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Announced(Object),
    /// A pipe, which has no announcement.
    Pipe,
}

/// A BUFFER record that has to come next.
struct Buffer {
    len: u64,
    /// After what.
    after: &'static str,
}

/// Whether an image is what it says it is, so far.
#[derive(Default)]
pub struct Soundness {
    /// Of the head, until the layout is known.
    head: Vec<Prefix>,
    objects: HashMap<i32, Named>,
    /// Announced, whose body comes: the innermost last.
    open: Vec<(i32, Object)>,
    next: Option<Buffer>,
    spine: Spine,
    /// Descriptors of the table that is read, which have not come.
    descriptors: u32,
    /// Names that come next, of a file or of a root and working directory.
    names: u8,
    /// The contents of a pipe come next, after the names.
    contents: bool,
    /// Tasks of the tree that have not come.
    tasks: u32,
    /// Mappings of the address space that is read, and what comes after them.
    mappings: u32,
    context: bool,
    /// Messages of the queue that is read, and fragments of the message.
    messages: u32,
    fragments: u16,
    /// Epoll sets whose watches have not come.
    sets: BTreeSet<i32>,
    /// Watches come next.
    watches: bool,
}

impl Soundness {
    /// A record begins.
    ///
    /// # Errors
    /// [`Error::Image`] where it is none, or has a wrong length.
    pub fn prefix(&mut self, prefix: Prefix, layout: Option<&Layout>) -> Result<(), Error> {
        let Some(layout) = layout else {
            self.head.push(prefix);
            return Ok(());
        };
        for prefix in std::mem::take(&mut self.head) {
            measure(prefix, forms::find(prefix.kind, layout.version), layout)?;
        }
        let form = forms::find(prefix.kind, layout.version);
        if let Some(form) = form {
            self.spine.prefix(prefix, form, layout.version)?;
        }
        self.tail(prefix, layout.version)?;
        if let Some(Buffer { len, after }) = self.next.take()
            && (prefix.kind != fixed::BUFFER || u64::from(prefix.len) != len)
        {
            let version = Some(layout.version);
            let expected = forms::name(fixed::BUFFER, version);
            return Err(prefix.error(
                version,
                format!("expected a {expected} of {len} bytes after the {after}"),
            ));
        }
        measure(prefix, form, layout)
    }

    /// A whole record, whose prefix was told.
    ///
    /// # Errors
    /// [`Error::Image`] where it contradicts what came before.
    pub fn record(&mut self, record: &Record<'_>, layout: &Layout) -> Result<(), Error> {
        let version = layout.version;
        let kind = record.prefix.kind;
        let watches = std::mem::take(&mut self.watches);
        if kind == fixed::OBJREF {
            return self.announced(record, version);
        }
        let Some(form) = forms::find(kind, version) else {
            return Ok(());
        };
        if let Length::Counted(base, each) = form.length(version) {
            let count = record.u32(8)?;
            let len = u64::from(base) + u64::from(count) * u64::from(each);
            if u64::from(record.prefix.len) != len {
                return Err(record.error(format!("{count} in it would be {len} bytes")));
            }
        }
        for reference in form.references(version) {
            let object = record.i32(reference.at)?;
            if object != 0 || !reference.or_none {
                self.demand(record, object, reference.to)?;
            }
        }
        self.nothing_is_missing(record, form, version)?;
        let id = self.close(record, form)?;
        match kind {
            _ if Some(kind) == version.pids => {
                let (pids, deeper) = (record.u32(8)?, record.u32(12)?);
                let len = 8 + u64::from(pids) * 8 + u64::from(deeper) * 4;
                self.buffer_follows(len, form);
            }
            _ if kind == version.tree => {
                self.tasks = record.u32(8)?;
                let len = 8 + u64::from(self.tasks) * TREE_ENTRY as u64;
                self.buffer_follows(len, form);
            }
            _ if kind == version.task => self.tasks = self.tasks.saturating_sub(1),
            fixed::FILE_TABLE => self.descriptors = record.u32(8)?,
            fixed::FILE_DESC => {
                self.descriptors = self.descriptors.checked_sub(1).ok_or_else(|| {
                    record.error("a descriptor more than the FILE_TABLE record before it counts")
                })?;
            }
            _ if form.name == "FS" => self.names = 2,
            fixed::FILE => self.file(record, id, version)?,
            fixed::TTY_LDISC => {
                let held = record.u32(12)?;
                if held > TTY_BUFFER {
                    return Err(record.error(format!("a terminal with {held} bytes of input")));
                }
                if held > 0 {
                    self.buffer_follows(8 + u64::from(held), form);
                }
            }
            fixed::TTY => {
                let link = record.i32(12)?;
                if link == id {
                    return Err(record.error("a terminal that is its own master"));
                }
            }
            fixed::EPOLL_ITEMS => {
                let (set, count) = (record.i32(8)?, record.u32(12)?);
                if !self.sets.remove(&set) {
                    return Err(record.error(format!(
                        "watches of object {set}, which is no epoll set whose watches are due"
                    )));
                }
                self.watches = count > 0;
                if self.watches {
                    let len = 8 + u64::from(count) * WATCH as u64;
                    self.buffer_follows(len, form);
                }
            }
            fixed::BUFFER if watches => self.watched(record)?,
            fixed::MM => {
                self.mappings = record.u32(8)?;
                self.context = true;
            }
            _ if form.name == "MM_CONTEXT" => self.context = false,
            fixed::VMA => self.mapping(record)?,
            fixed::SOCKET_QUEUE => self.messages = record.u32(8)?,
            fixed::SOCKET_BUFFER => {
                self.messages = self.messages.checked_sub(1).ok_or_else(|| {
                    record.error("a message more than the SOCKET_QUEUE record before it counts")
                })?;
                self.fragments = record.u16(54)?;
                if self.fragments > MAX_FRAGMENTS {
                    return Err(record.error(format!("a message of {} fragments", self.fragments)));
                }
                self.buffer_follows(8 + u64::from(record.u32(20)?), form);
            }
            _ if Some(kind) == version.fragment => {
                self.fragments = self.fragments.checked_sub(1).ok_or_else(|| {
                    record.error("a fragment more than the SOCKET_BUFFER record before it counts")
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What belongs to the record before it comes at once: names, and the contents of a
    /// pipe at its first end.
    fn tail(&mut self, prefix: Prefix, version: &'static Version) -> Result<(), Error> {
        let due = match (self.names, self.contents) {
            (0, false) => None,
            (0, true) => Some(fixed::PIPE_BUF),
            _ => Some(fixed::FILE_NAME),
        };
        let of_files = [fixed::FILE_NAME, fixed::PIPE_BUF].contains(&prefix.kind);
        if due == Some(prefix.kind) || due.is_none() && !of_files {
            match prefix.kind {
                fixed::FILE_NAME => self.names -= 1,
                fixed::PIPE_BUF => self.contents = false,
                _ => {}
            }
            return Ok(());
        }
        let why = match due {
            Some(due) => format!("expected a {} first", forms::name(due, Some(version))),
            None => "it belongs to no file before it".to_owned(),
        };
        Err(prefix.error(Some(version), why))
    }

    fn buffer_follows(&mut self, len: u64, form: &'static Form) {
        let after = form.name;
        self.next = Some(Buffer { len, after });
    }

    fn announced(&mut self, record: &Record<'_>, version: &Version) -> Result<(), Error> {
        let (number, id) = (record.u32(8)?, record.i32(12)?);
        let Some(object) = Object::of(number, version) else {
            return Err(record.error(format!(
                "object {id} is of type {number}, which no kernel restores"
            )));
        };
        if self.objects.insert(id, Named::Announced(object)).is_some() {
            return Err(record.error(format!("object {id} is announced twice")));
        }
        // How the others begin is not known of every version.
        let followed = !matches!(
            object,
            Object::Ipc | Object::Mnt | Object::Net | Object::Netdev | Object::SemUndo
        );
        if followed {
            if self.open.len() == DEEPEST {
                return Err(record.error(format!(
                    "object {id} is announced before the bodies of {DEEPEST} others have come"
                )));
            }
            self.open.push((id, object));
        }
        Ok(())
    }

    fn demand(&self, record: &Record<'_>, id: i32, object: Object) -> Result<(), Error> {
        let what = match self.objects.get(&id) {
            Some(Named::Announced(other)) if *other == object => return Ok(()),
            Some(Named::Announced(other)) => format!("is a {}", other.name()),
            Some(Named::Pipe) => "is a pipe".to_owned(),
            None => "was not announced before it".to_owned(),
        };
        Err(record.error(format!(
            "it refers to object {id} as a {}, which {what}",
            object.name()
        )))
    }

    /// What was counted has come by the time that something else does.
    fn nothing_is_missing(
        &self,
        record: &Record<'_>,
        form: &Form,
        version: &Version,
    ) -> Result<(), Error> {
        let kind = record.prefix.kind;
        let ends_a_message = matches!(kind, fixed::SOCKET_BUFFER | fixed::SOCKET_QUEUE);
        let ends_a_queue = matches!(kind, fixed::SOCKET_QUEUE | fixed::EPOLL_ITEMS);
        let ends_a_table = [fixed::TAIL, version.task, version.task_objs].contains(&kind)
            || matches!(kind, fixed::FILE_TABLE | fixed::MM);
        if (ends_a_message || ends_a_queue || ends_a_table) && self.fragments > 0 {
            return Err(record.error(format!(
                "the message before it has {} fragments less than its SOCKET_BUFFER record says",
                self.fragments
            )));
        }
        if (ends_a_queue || ends_a_table) && self.messages > 0 {
            return Err(record.error(format!(
                "the queue before it has {} messages less than its SOCKET_QUEUE record says",
                self.messages
            )));
        }
        if ends_a_table && self.descriptors > 0 {
            return Err(record.error(format!(
                "the file table before it has {} descriptors less than its FILE_TABLE record says",
                self.descriptors
            )));
        }
        if (form.name == "MM_CONTEXT" || ends_a_table) && self.mappings > 0 {
            return Err(record.error(format!(
                "the address space before it has {} mappings less than its MM record says",
                self.mappings
            )));
        }
        if kind == version.task_objs && self.context && self.spine.is_whole() {
            return Err(record.error("the address space before it has no MM_CONTEXT record"));
        }
        if kind == version.task_objs
            && let Some(set) = self.sets.first()
        {
            return Err(record.error(format!(
                "the watches of epoll set {set} should come before it"
            )));
        }
        if kind == fixed::TAIL && self.tasks > 0 {
            return Err(record.error(format!(
                "the task tree has {} tasks more than come before it",
                self.tasks
            )));
        }
        let needs_a_body = ends_a_table || kind == fixed::FILE_DESC;
        match self.open.last() {
            Some((id, object)) if needs_a_body && form.body != Some(*object) => {
                Err(record.error(format!(
                    "object {id} was announced as a {}, and has not come",
                    object.name()
                )))
            }
            _ => Ok(()),
        }
    }

    /// The body of an object comes: the innermost that was announced. Gives its number, or 0.
    fn close(&mut self, record: &Record<'_>, form: &Form) -> Result<i32, Error> {
        let Some(body) = form.body else {
            return Ok(0);
        };
        match self.open.pop() {
            Some((id, object)) if object == body => Ok(id),
            Some((id, object)) => {
                Err(record.error(format!("object {id} was announced as a {}", object.name())))
            }
            None => Err(record.error(format!("a {} that was not announced", body.name()))),
        }
    }

    fn file(&mut self, record: &Record<'_>, id: i32, version: &Version) -> Result<(), Error> {
        let (of, flags) = (record.u32(8)?, record.u32(16)?);
        let behind = || record.i32(version.file_len as usize);
        match of {
            file_type::SOCKET => self.demand(record, behind()?, Object::Socket),
            file_type::TTY => self.demand(record, behind()?, Object::Tty),
            file_type::EPOLL => {
                self.sets.insert(id);
                Ok(())
            }
            file_type::PIPE | file_type::FIFO => {
                let pipe = behind()?;
                if pipe <= 0 {
                    return Err(record.error(format!("pipe {pipe}")));
                }
                self.contents = !self.objects.contains_key(&pipe);
                // A kernel takes a file that was announced for the pipe's other end.
                match *self.objects.entry(pipe).or_insert(Named::Pipe) {
                    Named::Announced(other) if other != Object::File => Err(record.error(format!(
                        "it refers to object {pipe} as a pipe, which is a {}",
                        other.name()
                    ))),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }?;
        self.names = u8::from(matches!(of, file_type::GENERIC | file_type::FIFO));
        if matches!(of, file_type::GENERIC | file_type::FIFO) && flags & REFUSED_FLAGS != 0 {
            return Err(record.error(format!(
                "flags {flags:#o} would create or truncate the file, which no kernel restores"
            )));
        }
        Ok(())
    }

    fn watched(&self, record: &Record<'_>) -> Result<(), Error> {
        let mut at = 8;
        while at < record.bytes.len() {
            self.demand(record, record.i32(at + 12)?, Object::File)?;
            at += WATCH;
        }
        Ok(())
    }

    fn mapping(&mut self, record: &Record<'_>) -> Result<(), Error> {
        self.mappings = self
            .mappings
            .checked_sub(1)
            .ok_or_else(|| record.error("a mapping more than the MM record before it counts"))?;
        let (kind, file) = (record.u32(8)?, record.i32(12)?);
        match file == 0 || SHARED_MEMORY.contains(&kind) {
            true => Ok(()),
            false => self.demand(record, file, Object::File),
        }
    }
}

/// Whether a record has the length of its form.
fn measure(prefix: Prefix, form: Option<&Form>, layout: &Layout) -> Result<(), Error> {
    let version = layout.version;
    let Some(form) = form else {
        if version.pids.is_none() {
            return Err(prefix.error(
                Some(version),
                format!("no {} image has such a one", version.name),
            ));
        }
        return bounded(prefix, version, 8, forms::LONGEST_WHOLE);
    };
    match form.length(version) {
        Length::OnX86(len) if layout.is_x86() => bounded(prefix, version, len, len),
        Length::OnX86(_) => bounded(prefix, version, 8, forms::PAGE),
        Length::Exactly(len) => bounded(prefix, version, len, len),
        Length::Within(least, most) => bounded(prefix, version, least, most),
        Length::Counted(base, _) => bounded(prefix, version, base, forms::LONGEST_WHOLE),
    }
}

fn bounded(prefix: Prefix, version: &'static Version, least: u32, most: u32) -> Result<(), Error> {
    if (least..=most).contains(&prefix.len) {
        return Ok(());
    }
    let expected = match least == most {
        true => format!("expected {least} bytes"),
        false => format!("expected {least} to {most} bytes"),
    };
    Err(prefix.error(Some(version), expected))
}
