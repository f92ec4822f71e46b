//! The open file descriptions of an image, by id.

use super::entry::Description;
use std::ops::Index;

/// Descriptions, ascending by id, which CRIU gives one after the other.
#[derive(Clone, Debug, Default)]
pub struct Descriptions(Vec<Description>);

impl Descriptions {
    /// Puts a list in order; the second of two with one id where there are such.
    pub(super) fn new(mut list: Vec<Description>) -> Result<Self, Description> {
        list.sort_by_key(|description| description.id);
        match list.windows(2).position(|pair| pair[0].id == pair[1].id) {
            Some(first) => Err(list.swap_remove(first + 1)),
            None => Ok(Descriptions(list)),
        }
    }

    fn place(&self, id: u32) -> Option<usize> {
        self.0
            .binary_search_by_key(&id, |description| description.id)
            .ok()
    }

    /// The description of an id.
    pub fn get(&self, id: u32) -> Option<&Description> {
        self.place(id).map(|place| &self.0[place])
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Description> {
        self.place(id).map(|place| &mut self.0[place])
    }

    /// Whether there is one of an id.
    pub fn contains(&self, id: u32) -> bool {
        self.place(id).is_some()
    }

    /// All of them, ascending by id.
    pub fn iter(&self) -> std::slice::Iter<'_, Description> {
        self.0.iter()
    }

    /// The ids, ascending.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.iter().map(|description| description.id)
    }

    /// Looks up one after the other, which is fast in the order of the ids.
    pub(super) fn lookup<'a>(&'a self) -> impl FnMut(u32) -> Option<&'a Description> {
        let mut next = 0;
        move |id| {
            let found = match self.0.get(next) {
                Some(description) if description.id == id => next,
                _ => self.place(id)?,
            };
            next = found + 1;
            Some(&self.0[found])
        }
    }
}

/// One that is there: what refers to descriptions was checked when the image was read.
impl Index<u32> for Descriptions {
    type Output = Description;

    fn index(&self, id: u32) -> &Description {
        self.get(id).expect("a description of the image")
    }
}
