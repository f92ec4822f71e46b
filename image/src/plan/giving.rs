//! What comes in the place of the image's descriptors: the caller's own, and
//! files that are opened by their paths.
//!
//! Descriptors that one path is given to share one open file description, opened
//! with the access that those of one table need together. One of another table
//! that needs more has a description of its own, and so have those that append
//! and those that do not.

use super::{ByNumber, Choice, Descriptor, Fate, Origin, Planner, Wanted};
use crate::Error;
use crate::advice::{Action, Item, Kind};
use crate::caller::{Access, CallerFile, CannotOpen, Opened, Opening};
use std::sync::Arc;

/// A file that is opened by its path.
pub(super) struct Given {
    opening: Opening,
    opened: Opened,
    first: First,
}

/// Who needs a file first.
struct First {
    item: String,
    task: i32,
    number: i32,
}

/// A description that a table needs: the first descriptor that does, its item,
/// and what of the path.
struct Need {
    number: i32,
    index: usize,
    opening: Opening,
}

impl Planner {
    /// What becomes of the chosen descriptors of one table, of each in turn.
    pub(super) fn fates(
        &mut self,
        task: i32,
        chosen: &[Choice],
        by_number: &ByNumber<'_>,
    ) -> Result<Vec<Fate>, Error> {
        let mut fates = Vec::with_capacity(chosen.len());
        let mut needs: Vec<Need> = Vec::new();
        for &Choice { number, index } in chosen {
            let there = by_number.get(number);
            let fate = match (self.wanted(index, number), there) {
                (None, _) => Fate::Drop,
                (Some(Wanted::Number(from)), there) => {
                    if let Some(descriptor) = there {
                        self.check(&self.bound[index].item, task, descriptor, from)?;
                    }
                    Fate::Give(Origin::Descriptor(from))
                }
                (Some(Wanted::Path(path)), Some(descriptor)) => {
                    add(
                        &mut needs,
                        index,
                        opening(&self.bound[index].text, path, descriptor),
                        number,
                    );
                    // Until it is known what all of them need.
                    Fate::Keep
                }
                (Some(Wanted::Path(_)), None) => Fate::Keep,
            };
            fates.push(fate);
        }
        let mut origins = Vec::with_capacity(needs.len());
        for need in needs {
            origins.push((need.opening.clone(), self.origin(task, need)?));
        }
        if origins.is_empty() {
            return Ok(fates);
        }
        for (&Choice { number, index }, fate) in chosen.iter().zip(&mut fates) {
            let (Some(Wanted::Path(path)), Some(descriptor)) =
                (self.wanted(index, number), by_number.get(number))
            else {
                continue;
            };
            let wanted = opening(&self.bound[index].text, path, descriptor);
            let origin = origins.iter().find(|(opening, _)| opening.is_like(&wanted));
            if let Some((_, origin)) = origin {
                *fate = Fate::Give(*origin);
            }
        }
        Ok(fates)
    }

    /// A description for a need: one that there is already, or a new one.
    fn origin(&mut self, task: i32, need: Need) -> Result<Origin, Error> {
        let will_do = |given: &Given| {
            given.opening.is_like(&need.opening) && given.opening.access.covers(need.opening.access)
        };
        if let Some(index) = self.given.iter().position(will_do) {
            return Ok(Origin::Path(index));
        }
        let first = First {
            item: self.bound[need.index].item.to_string(),
            task,
            number: need.number,
        };
        let mut opening = need.opening;
        let opened = self.paths.look(&opening);
        let opened = opened.map_err(|error| first.error(&opening, error))?;
        // Whoever opened it in advance knew what others need.
        opening.access = opening.access.and(opened.file.access);
        if let (Some(why), false) = (&opened.file.not_given, self.shares) {
            let path = String::from_utf8_lossy(&opening.path);
            return Err(Error::unsupported(
                format!("{}: {path}", first.item),
                why.clone(),
            ));
        }
        let given = Given {
            opening,
            opened,
            first,
        };
        self.given.push(given);
        Ok(Origin::Path(self.given.len() - 1))
    }

    /// Whether the caller's descriptor can take the place of one of the image.
    fn check(
        &self,
        item: &Item,
        task: i32,
        descriptor: &Descriptor<'_>,
        from: i32,
    ) -> Result<(), Error> {
        if item.action == Action::Add && !descriptor.is_missing {
            return Err(Error::Exists {
                item: item.to_string(),
                task,
                number: descriptor.number,
            });
        }
        let (needs, has) = (needs(descriptor), self.caller.files[&from].access);
        let lacks = if needs.read && !has.read {
            "reading"
        } else if needs.write && !has.write {
            "writing"
        } else {
            return Ok(());
        };
        Err(Error::Access {
            item: item.to_string(),
            task,
            number: descriptor.number,
            from,
            lacks,
        })
    }

    /// What comes in a descriptor's place, for people.
    pub(super) fn gives(&self, from: Origin) -> Option<String> {
        let path = match from {
            Origin::Descriptor(from) => {
                let file = self.caller.files.get(&from)?;
                let how = if self.shares {
                    "shared"
                } else {
                    "re-opened, not shared"
                };
                return Some(format!("{}, {how}", file.link));
            }
            Origin::Path(index) => self.given.get(index)?,
        };
        let opening = &path.opening;
        let name = String::from_utf8_lossy(&opening.path);
        let flags = crate::listing::flags(opening.flags().cast_unsigned());
        let made = if path.opened.missing { ", made" } else { "" };
        Some(format!("{name} ({flags}{made})"))
    }

    /// The file that a new descriptor refers to.
    pub fn file(&self, from: Origin) -> Option<&CallerFile> {
        match from {
            Origin::Descriptor(number) => self.caller.files.get(&number),
            Origin::Path(index) => self.given.get(index).map(|given| &given.opened.file),
        }
    }

    /// One origin for all that are one open file description.
    pub fn description(&self, from: Origin) -> Origin {
        match from {
            Origin::Descriptor(number) => {
                let file = self.caller.files.get(&number);
                Origin::Descriptor(file.map_or(number, |file| file.description))
            }
            Origin::Path(_) => from,
        }
    }

    /// How the file of an [`Origin::Path`] is opened.
    pub fn opening(&self, index: usize) -> Option<&Opening> {
        self.given.get(index).map(|given| &given.opening)
    }

    /// The offset of the file of an [`Origin::Path`], in bytes.
    pub fn position(&self, index: usize) -> u64 {
        self.given
            .get(index)
            .map_or(0, |given| given.opened.position)
    }

    /// Where in a file that is opened by path to begin, in bytes; `None` where it
    /// has no offset.
    pub fn seek(&self, opening: &Opening) -> Option<u64> {
        let mut like = self.given.iter().filter(|g| g.opening.is_like(opening));
        let first = like.next()?;
        let seeks = matches!(first.opened.file.kind, Kind::Reg | Kind::Blk);
        seeks.then_some(first.opened.position)
    }

    /// What is to be opened by path, so far: one for each path, and one more
    /// where some append and others do not.
    pub fn openings(&self) -> Vec<Opening> {
        Opening::united(self.given.iter().map(|given| &given.opening))
    }

    /// Has the file of an [`Origin::Path`] opened, since it is needed now.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn open(&mut self, index: usize) -> Result<(), Error> {
        let Some(given) = self.given.get_mut(index) else {
            return Ok(());
        };
        let opened = self.paths.open(&given.opening);
        given.opened = opened.map_err(|error| given.first.error(&given.opening, error))?;
        Ok(())
    }
}

impl First {
    fn error(&self, opening: &Opening, error: CannotOpen) -> Error {
        Error::Path {
            item: self.item.clone(),
            task: self.task,
            number: self.number,
            path: String::from_utf8_lossy(&opening.path).into_owned(),
            errno: error.errno,
            why: error.why,
        }
    }
}

/// Adds what a descriptor needs to what others of its table do.
fn add(needs: &mut Vec<Need>, index: usize, opening: Opening, number: i32) {
    match needs.iter_mut().find(|need| need.opening.is_like(&opening)) {
        Some(need) => need.opening.access = need.opening.access.and(opening.access),
        None => needs.push(Need {
            number,
            index,
            opening,
        }),
    }
}

/// How a path has to be opened to take the place of a descriptor.
///
/// * `item`: which names it.
fn opening(item: &Arc<str>, path: &Arc<[u8]>, descriptor: &Descriptor<'_>) -> Opening {
    let access = needs(descriptor);
    let counts = matches!(descriptor.kind, Kind::Reg | Kind::Blk | Kind::Memfd);
    Opening {
        item: item.clone(),
        path: path.clone(),
        access,
        flags: descriptor.flags & status_flags(descriptor.kind, access),
        position: descriptor.position.filter(|_| counts),
    }
}

/// The flags of a description that one which takes its place gets.
fn status_flags(kind: Kind, access: Access) -> i32 {
    let append = if access.write { libc::O_APPEND } else { 0 };
    // On others they have another meaning, or none.
    let of_data = match kind {
        Kind::Reg | Kind::Blk => libc::O_SYNC | libc::O_DSYNC | libc::O_DIRECT | libc::O_NOATIME,
        _ => 0,
    };
    libc::O_NONBLOCK | append | of_data
}

/// 0, 1 and 2 need the direction that they have by convention, every other
/// number what the image's description could do.
fn needs(descriptor: &Descriptor<'_>) -> Access {
    match descriptor.number {
        0 => Access {
            read: true,
            write: false,
        },
        1 | 2 => Access {
            read: false,
            write: true,
        },
        _ => descriptor.access,
    }
}
