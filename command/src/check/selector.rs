//! The LIST that selects the descriptors of one open file description, and no other.

use ckpt_image::listing::{Description, Listing};
use std::collections::{BTreeSet, HashMap};

/// What the numbers of an image mean.
pub struct Numbers<'a> {
    listing: &'a Listing,
    /// Of the root task's table.
    of_root: HashMap<i32, u64>,
    /// Of all: the description, where every table that has the number means the same.
    of_all: HashMap<i32, Option<u64>>,
}

impl<'a> Numbers<'a> {
    /// Of an image.
    pub fn of(listing: &'a Listing) -> Self {
        let mut numbers = Numbers {
            listing,
            of_root: HashMap::new(),
            of_all: HashMap::new(),
        };
        for (index, table) in listing.tables.iter().enumerate() {
            for it in &table.descriptors {
                if index == 0 {
                    numbers.of_root.insert(it.number, it.description);
                }
                let of_all = numbers.of_all.entry(it.number);
                let of_all = of_all.or_insert(Some(it.description));
                *of_all = of_all.filter(|other| *other == it.description);
            }
        }
        numbers
    }

    /// Whether a number without a task means descriptors of one description only, and
    /// all of those of this number.
    fn is_clear(&self, id: u64, number: i32) -> bool {
        match self.of_root.get(&number) {
            Some(of_root) => *of_root == id,
            None => self.of_all.get(&number) == Some(&Some(id)),
        }
    }
}

/// Which descriptors those are, ready to be written.
pub struct Selector {
    id: u64,
    /// Task, where it is needed, and number.
    items: BTreeSet<(Option<i32>, i32)>,
}

impl Selector {
    /// Of a description.
    pub fn of(numbers: &Numbers<'_>, description: &Description) -> Self {
        let mut items = BTreeSet::new();
        for (task, number) in numbers.listing.descriptors(description) {
            items.insert(match numbers.is_clear(description.id, number) {
                true => (None, number),
                false => (Some(task), number),
            });
        }
        Selector {
            id: description.id,
            items,
        }
    }

    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// One item for each.
    pub fn numbers(&self) -> String {
        list(&self.items, text)
    }

    /// Options that put the restart program's own 0, 1 and 2 there; `None` where none
    /// of these is meant.
    pub fn own(&self) -> Option<Vec<(&'static str, String)>> {
        let items = self.items.iter().copied();
        let (own, rest): (BTreeSet<_>, BTreeSet<_>) = items.partition(|it| (0..3).contains(&it.1));
        let from = own.iter().map(|it| it.1).max()?;
        let mut options = vec![("--preserve", list(&own, text))];
        if !rest.is_empty() {
            let rest = list(&rest, |item| format!("{}={from}", text(item)));
            options.push(("--substitute", rest));
        }
        Some(options)
    }

    /// An item for SUBSTITUTE for each.
    ///
    /// * `from`: a number of the restart program.
    pub fn given(&self, from: i32) -> String {
        list(&self.items, |item| format!("{}={from}", text(item)))
    }

    /// As short as it can be.
    pub fn shortest(&self) -> String {
        const FEW: usize = 4;
        match self.items.len() {
            ..=FEW => self.numbers(),
            _ => format!("id={}", self.id),
        }
    }

    /// An item for SUBSTITUTE.
    ///
    /// * `source`: a path.
    pub fn replaced_by(&self, source: &str) -> String {
        let source = escaped(source);
        match (self.items.len(), self.items.first()) {
            (1, Some(one)) => format!("{}={source}", text(one)),
            _ => format!("id={}={source}", self.id),
        }
    }
}

fn text((task, number): &(Option<i32>, i32)) -> String {
    match task {
        Some(task) => format!("{task}:{number}"),
        None => number.to_string(),
    }
}

fn list(
    items: &BTreeSet<(Option<i32>, i32)>,
    text: impl Fn(&(Option<i32>, i32)) -> String,
) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A path as the source of an item.
fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, ',' | '=' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ckpt_image::advice::Kind;
    use ckpt_image::listing::{Descriptor, Engine, Table};

    /// A listing of tables, each a list of numbers and descriptions, whose tasks are
    /// 100, 101 and so on.
    fn listing(tables: &[&[(i32, u64)]]) -> Listing {
        let table = |(index, slots): (usize, &&[(i32, u64)])| Table {
            id: index as u64,
            tasks: vec![100 + index as i32],
            descriptors: slots
                .iter()
                .map(|&(number, description)| Descriptor {
                    number,
                    description,
                    close_on_exec: false,
                })
                .collect(),
        };
        Listing {
            engine: Engine::Criu,
            format: String::new(),
            advisable: true,
            tasks: Vec::new(),
            tables: tables.iter().enumerate().map(table).collect(),
            descriptions: Vec::new(),
        }
    }

    fn selector(listing: &Listing, id: u64) -> Selector {
        let tables = listing.tables.iter().enumerate();
        let holders = tables.flat_map(|(place, table)| {
            let own = table.descriptors.iter().filter(|it| it.description == id);
            own.map(move |it| (place, it.number))
        });
        let description = Description {
            id,
            kind: Kind::Reg,
            holders: holders.collect(),
            flags: 0,
            position: None,
            path: None,
            name: String::new(),
            state: None,
            remote: None,
            queued: None,
            count: None,
            other_ends: None,
            watches: Vec::new(),
            references: Vec::new(),
        };
        Selector::of(&Numbers::of(listing), &description)
    }

    #[test]
    fn a_number_that_is_clear_needs_no_task() {
        let one = listing(&[&[(1, 5), (2, 5), (7, 6)], &[(1, 5), (7, 6)]]);
        assert_eq!(selector(&one, 5).numbers(), "1,2");
        assert_eq!(selector(&one, 6).replaced_by("/a"), "7=/a");
        assert_eq!(selector(&one, 5).replaced_by("/a,b"), r"id=5=/a\,b");
    }

    #[test]
    fn what_is_no_standard_one_comes_from_one() {
        let one = listing(&[&[(0, 5), (2, 5), (7, 5), (8, 6)]]);
        let expected = [("--preserve", "0,2"), ("--substitute", "7=2")];
        let expected = expected.map(|(option, list)| (option, list.to_owned()));
        assert_eq!(selector(&one, 5).own(), Some(expected.into()));
        assert_eq!(selector(&one, 6).own(), None);
    }

    #[test]
    fn a_number_that_others_mean_otherwise_has_its_task() {
        let two = listing(&[&[(1, 5)], &[(1, 8), (9, 6)], &[(9, 7)]]);
        assert_eq!(selector(&two, 8).numbers(), "101:1");
        assert_eq!(selector(&two, 6).numbers(), "101:9");
        // The root's is the root's alone.
        assert_eq!(selector(&two, 5).numbers(), "1");
    }
}
