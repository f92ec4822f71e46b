//! Holds an image against the forms of its records, as a restarting kernel would: lengths,
//! references to what has been announced, counts and what they count.
//!
//! Told every prefix, and every record that is put together, in order. Of a record that
//! passes it sees the prefix; memory pages are among those. What a kernel takes and none
//! ever wrote (an announcement between a count and what it counts) is taken for damage.

use super::fields;
use super::forms::{self, Form, Length, Object};
use super::layout::{Arch, Layout, TREE_ENTRY, Version, WATCH, file_type, fixed};
use super::records::{Prefix, Record};
use super::sockets::{self, Sockets};
use super::spine::Spine;
use crate::Error;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// A kernel calls itself for each object inside another, on a stack that ends.
const DEEPEST: usize = 64;
/// The kinds of mapping that are shared memory without a name or of SysV, whose file is
/// announced nowhere.
const SHARED_MEMORY: [u32; 4] = [4, 5, 7, 8];
/// The kinds of mapping whose pages follow: private memory, a private mapping of a file,
/// and shared memory without a name where it comes first.
const WITH_PAGES: [u32; 3] = [2, 3, 4];

/// What an objref names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Announced(Object),
    /// A pipe, which has no announcement.
    Pipe,
}

/// A record that has to come next.
struct Next {
    kind: u32,
    /// Bytes, its prefix included, where that is known.
    len: Option<u64>,
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
    /// What belongs to the record before it, and comes at once: the first one first.
    next: VecDeque<Next>,
    spine: Spine,
    /// Descriptors of the table that is read, which have not come.
    descriptors: u32,
    /// Tasks of the tree that have not come.
    tasks: u32,
    /// Mappings of the address space that is read, and what comes after them.
    mappings: u32,
    context: bool,
    /// It has a namespace of SysV IPC.
    ipc: bool,
    sockets: Sockets,
    /// The input of the terminal that is read would be left where it stands.
    input_strays: bool,
    /// Epoll sets whose watches have not come, and those whose table has not.
    sets: BTreeSet<i32>,
    later_sets: BTreeSet<i32>,
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
        self.belongs(prefix, layout)?;
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
        fields::check(record, form, version)?;
        self.nothing_is_missing(record, form, version)?;
        let id = self.close(record, form)?;
        self.sockets.record(record, version, id, self.open.len())?;
        match kind {
            _ if Some(kind) == version.pids => {
                let (pids, deeper) = (record.u32(8)?, record.u32(12)?);
                let len = 8 + u64::from(pids) * 8 + u64::from(deeper) * 4;
                self.buffer_follows(len, form.name);
            }
            _ if kind == version.tree => {
                self.tasks = record.u32(8)?;
                let len = 8 + u64::from(self.tasks) * TREE_ENTRY as u64;
                self.buffer_follows(len, form.name);
            }
            _ if kind == version.task => {
                self.tasks = self.tasks.saturating_sub(1);
                fields::check_task(record)?;
                self.follows(fixed::STRING, None, form.name);
            }
            fixed::FILE_TABLE => {
                self.descriptors = record.u32(8)?;
                self.table_may_end();
            }
            fixed::FILE_DESC => {
                self.descriptors = self.descriptors.checked_sub(1).ok_or_else(|| {
                    record.error("a descriptor more than the FILE_TABLE record before it counts")
                })?;
                self.table_may_end();
            }
            _ if form.name == "SECURITY" => self.follows(fixed::STRING, None, form.name),
            _ if form.name == "FS" => {
                self.follows(fixed::FILE_NAME, None, form.name);
                self.follows(fixed::FILE_NAME, None, form.name);
            }
            fixed::FILE => self.file(record, id, version)?,
            fixed::TTY_LDISC => {
                let held = record.u32(12)?;
                if held > 0 {
                    if self.input_strays {
                        let why = "input of a terminal whose line discipline is not open";
                        return Err(record.error(why));
                    }
                    self.buffer_follows(8 + u64::from(held), form.name);
                }
            }
            fixed::TTY => self.terminal(record, id)?,
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
                    self.buffer_follows(len, form.name);
                }
            }
            fixed::BUFFER if watches => self.watched(record)?,
            fixed::MM => {
                self.mappings = record.u32(8)?;
                self.context = true;
                if !self.spine.is_lean() {
                    self.follows(fixed::BUFFER, None, form.name);
                }
            }
            _ if form.name == "MM_CONTEXT" => {
                self.context = false;
                if layout.is_x86() {
                    let len = 8 + 8 * u64::from(record.u32(20)?);
                    self.follows(fixed::MM_CONTEXT_LDT, Some(len), form.name);
                }
            }
            fixed::VMA => self.mapping(record)?,
            fixed::PGARR => {
                let pages = record.u64(8)?;
                let word = if layout.arch == Some(Arch::X86_32) {
                    4
                } else {
                    8
                };
                if pages > 0 {
                    let len = pages.saturating_mul(u64::from(forms::PAGE) + word);
                    self.buffer_follows(len.saturating_add(8), form.name);
                    self.follows(fixed::PGARR, None, form.name);
                }
            }
            fixed::SOCKET_BUFFER => {
                self.buffer_follows(8 + u64::from(record.u32(20)?), form.name);
            }
            _ if kind == version.socket_unix && sockets::is_relative(record, version)? => {
                self.follows(fixed::STRING, None, form.name);
            }
            _ => {}
        }
        Ok(())
    }

    /// What belongs to the record before it comes at once, and after no other.
    fn belongs(&mut self, prefix: Prefix, layout: &Layout) -> Result<(), Error> {
        let (kind, version) = (prefix.kind, layout.version);
        let Some(Next {
            kind: due,
            len,
            after,
        }) = self.next.pop_front()
        else {
            if self.comes_behind_others_only(kind, layout) {
                return Err(prefix.error(Some(version), "it belongs to nothing before it"));
            }
            return self.sockets.prefix(prefix, version, self.open.len());
        };
        if kind == due && len.is_none_or(|len| u64::from(prefix.len) == len) {
            return Ok(());
        }
        let due = forms::name(due, Some(version));
        let of = len.map_or_else(String::new, |len| format!(" of {len} bytes"));
        let why = format!("expected a {due}{of} after the {after}");
        Err(prefix.error(Some(version), why))
    }

    /// Whether a record that nothing has asked for is one too many.
    fn comes_behind_others_only(&self, kind: u32, layout: &Layout) -> bool {
        // What else has them is not known of every version and machine, nor of SysV IPC.
        let known = layout.is_x86() && layout.version.pids.is_none() && !self.ipc;
        match kind {
            fixed::FILE_NAME | fixed::PIPE_BUF => true,
            _ if self.spine.is_lean() => false,
            fixed::TTY_LDISC | fixed::MM_CONTEXT_LDT => true,
            fixed::BUFFER | fixed::STRING | fixed::PGARR => known,
            _ => false,
        }
    }

    fn follows(&mut self, kind: u32, len: Option<u64>, after: &'static str) {
        self.next.push_back(Next { kind, len, after });
    }

    fn buffer_follows(&mut self, len: u64, after: &'static str) {
        self.follows(fixed::BUFFER, Some(len), after);
    }

    /// What was announced so far and leaves work for the end of a table is this one's, if it
    /// has all its descriptors.
    fn table_may_end(&mut self) {
        if self.descriptors == 0 {
            self.sets.append(&mut self.later_sets);
            self.sockets.table_ends();
        }
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
        self.ipc |= object == Object::Ipc;
        // How the others begin is not known of every version.
        let followed = !matches!(
            object,
            Object::Ipc | Object::Mnt | Object::Net | Object::Netdev | Object::SemUndo
        );
        if followed {
            if self.open.len() + self.sockets.unfinished() >= DEEPEST {
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
        &mut self,
        record: &Record<'_>,
        form: &Form,
        version: &Version,
    ) -> Result<(), Error> {
        let kind = record.prefix.kind;
        let ends_a_table = [fixed::TAIL, version.task, version.task_objs].contains(&kind)
            || matches!(kind, fixed::FILE_TABLE | fixed::MM);
        self.sockets.nothing_is_missing(record, ends_a_table)?;
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
        if kind == version.task_objs {
            self.sockets.queues_have_come(record)?;
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
        let of = record.u32(8)?;
        fields::check_file(record, version)?;
        let behind = || record.i32(version.file_len as usize);
        match of {
            file_type::SOCKET => self.demand(record, behind()?, Object::Socket),
            file_type::TTY => self.demand(record, behind()?, Object::Tty),
            file_type::EPOLL => {
                self.later_sets.insert(id);
                Ok(())
            }
            file_type::PIPE | file_type::FIFO => {
                let pipe = behind()?;
                if pipe <= 0 {
                    return Err(record.error(format!("pipe {pipe}")));
                }
                if of == file_type::FIFO {
                    self.follows(fixed::FILE_NAME, None, "FILE");
                }
                if !self.objects.contains_key(&pipe) {
                    self.follows(fixed::PIPE_BUF, None, "FILE");
                }
                // A kernel takes a file that was announced for the pipe's other end.
                match *self.objects.entry(pipe).or_insert(Named::Pipe) {
                    Named::Announced(other) if other != Object::File => Err(record.error(format!(
                        "it refers to object {pipe} as a pipe, which is a {}",
                        other.name()
                    ))),
                    _ => Ok(()),
                }
            }
            file_type::GENERIC => {
                self.follows(fixed::FILE_NAME, None, "FILE");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn terminal(&mut self, record: &Record<'_>, id: i32) -> Result<(), Error> {
        let tty = fields::terminal(record, id)?;
        self.input_strays = !tty.reads;
        if tty.file != 0
            && self
                .objects
                .insert(tty.file, Named::Announced(Object::File))
                .is_some()
        {
            return Err(record.error(format!("its file {} is another object", tty.file)));
        }
        if tty.has_discipline && !self.spine.is_lean() {
            self.follows(fixed::TTY_LDISC, None, "TTY");
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
        if WITH_PAGES.contains(&kind) {
            self.follows(fixed::PGARR, None, "VMA");
        }
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
