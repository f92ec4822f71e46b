//! Deleted files, which CRIU makes anew in order to open them.

use super::entry::{FileType, Link, Remap, Remapped};
use super::holders::Holders;
use super::image::{Directory, optional};
use super::wire::{Magic, Splices};
use crate::Error;

/// The file that says which files they are.
pub(super) const NAME: &str = "remap-fpath.img";

/// Deleted files that nothing refers to any more.
#[derive(Default)]
pub(super) struct Ghosts {
    pub descriptions: Vec<u32>,
    /// remap-fpath.img without them, where it has them.
    pub remaps: Option<Vec<u8>>,
}

/// Finds those: no descriptor and no queue has them, nothing else is opened by
/// them, and no mapping, executable or directory of a task is one.
pub(super) fn gone(holders: &Holders<'_>, directory: &dyn Directory) -> Result<Ghosts, Error> {
    let descriptions = &holders.image.descriptions;
    // A terminal and a fifo are opened by the path of another description.
    let mut files: Vec<u32> = holders
        .gone()
        .iter()
        .copied()
        .filter_map(descriptions.lookup())
        .filter_map(|gone| match (gone.file_type, &gone.link) {
            (FileType::REG, _) => Some(gone.id),
            (_, Link::By(file)) => Some(*file),
            _ => None,
        })
        .collect();
    let Some(list) = optional(directory, NAME)?.filter(|_| !files.is_empty()) else {
        return Ok(Ghosts::default());
    };
    let mut ghosts = Vec::new();
    for entry in list.file().entries(Magic::REMAPS)? {
        let remap = Remap::read(&entry?)?;
        if remap.how == Remapped::Ghost && files.contains(&remap.description) {
            ghosts.push(remap);
        }
    }
    files.retain(|id| ghosts.iter().any(|ghost| ghost.description == *id));
    if files.is_empty() {
        return Ok(Ghosts::default());
    }
    let others = holders.image.other_references(directory)?;
    let opens = |id: u32| {
        let mut kept = descriptions.iter();
        kept.any(|other| other.link == Link::By(id) && !holders.is_gone(other.id))
    };
    files.sort_unstable();
    files.dedup();
    files.retain(|&id| {
        let held = holders.is_flying(id) || holders.kept(id).next().is_some();
        !held && !others.contains_key(&id) && !opens(id) && descriptions.contains(id)
    });
    let mut splices = Splices::default();
    for ghost in ghosts {
        if files.contains(&ghost.description) {
            splices.remove(ghost.span);
        }
    }
    Ok(Ghosts {
        descriptions: files,
        remaps: (!splices.is_empty()).then(|| splices.apply(&list.bytes, 0)),
    })
}
