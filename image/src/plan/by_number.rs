//! What a table has, in the order of the numbers.

use super::Descriptor;

/// The descriptors of one table, ascending by number.
pub(super) struct ByNumber<'a>(Vec<&'a Descriptor<'a>>);

impl<'a> ByNumber<'a> {
    pub fn new(descriptors: &'a [Descriptor<'a>]) -> Self {
        let mut sorted: Vec<_> = descriptors.iter().collect();
        sorted.sort_by_key(|descriptor| descriptor.number);
        ByNumber(sorted)
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a Descriptor<'a>> {
        self.0.iter().copied()
    }

    pub fn get(&self, number: i32) -> Option<&'a Descriptor<'a>> {
        let place = self.0.binary_search_by_key(&number, |it| it.number);
        place.ok().map(|place| self.0[place])
    }

    /// Those of the numbers `from` to `to`.
    pub fn range(&self, from: i32, to: i32) -> impl Iterator<Item = &'a Descriptor<'a>> {
        let start = self.0.partition_point(|it| it.number < from);
        let rest = self.0[start..].iter().copied();
        rest.take_while(move |it| it.number <= to)
    }
}
