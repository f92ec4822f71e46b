//! How long it takes to read a CRIU image and to meet advice with it, without the
//! reading of files: `cargo bench -p ckpt-image --bench criu [-- DESCRIPTORS]`.

use ckpt_image::Error;
use ckpt_image::advice::{Action, Advice, Kind, Strictness, parse_list};
use ckpt_image::caller::{Access, Caller, CallerFile, NoPaths};
use ckpt_image::criu::{Directory, Image, Naming, rewrite};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// A message: integers by field, and then strings and messages.
fn message(numbers: &[(u8, u64)], parts: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let varint = |bytes: &mut Vec<u8>, mut value: u64| {
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    };
    for &(field, value) in numbers {
        varint(&mut bytes, u64::from(field) << 3);
        varint(&mut bytes, value);
    }
    for &(field, part) in parts {
        varint(&mut bytes, u64::from(field) << 3 | 2);
        varint(&mut bytes, part.len() as u64);
        bytes.extend_from_slice(part);
    }
    bytes
}

fn file(magic: &[u32], entries: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes: Vec<u8> = magic.iter().flat_map(|word| word.to_le_bytes()).collect();
    for entry in entries {
        bytes.extend((entry.len() as u32).to_le_bytes());
        bytes.extend(entry);
    }
    bytes
}

/// An image in memory: one task with so many regular files, on 0 and up.
struct InMemory(BTreeMap<&'static str, Vec<u8>>);

impl InMemory {
    fn new(count: u64) -> Self {
        const COMMON: u32 = 0x5456_4319;
        let nobody = message(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)], &[]);
        let descriptions = (1..=count).map(|id| {
            let name = format!("/srv/data/file-{id}");
            let numbers = [
                (1, id),
                (2, 0o100_002),
                (3, 0),
                (7, 1034),
                (8, 4096),
                (10, 0o100_644),
            ];
            let reg = message(&numbers, &[(5, &nobody), (6, name.as_bytes())]);
            message(&[(1, 1), (2, id)], &[(3, &reg)])
        });
        let slots = (0..count).map(|n| message(&[(1, n + 1), (2, 0), (3, 1), (4, n)], &[]));
        let task = message(&[(1, 100), (2, 0), (3, 100), (4, 100), (5, 100)], &[]);
        let ids = message(&[(1, 1), (2, 2), (3, 1), (4, 1)], &[]);
        let inventory = message(&[(1, 2), (2, 1)], &[]);
        let one = std::iter::once::<Vec<u8>>;
        InMemory(BTreeMap::from([
            ("inventory.img", file(&[0x5831_3116], one(inventory))),
            ("pstree.img", file(&[COMMON, 0x5027_3030], one(task))),
            ("ids-100.img", file(&[COMMON, 0x5443_2030], one(ids))),
            ("files.img", file(&[COMMON, 0x5630_3138], descriptions)),
            ("fdinfo-2.img", file(&[COMMON, 0x5621_3732], slots)),
        ]))
    }
}

impl Directory for InMemory {
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(name).cloned())
    }
}

fn caller() -> Caller {
    let file = |number| CallerFile {
        kind: Kind::Reg,
        access: Access::of_flags(libc::O_RDWR),
        flags: libc::O_RDWR,
        f_mode: 0x1f,
        pollable: false,
        close_on_exec: false,
        description: number,
        name: Vec::new(),
        link: format!("/caller/{number}"),
        not_given: None,
    };
    Caller {
        files: [1, 2].map(|number| (number, file(number))).into(),
        ..Caller::default()
    }
}

/// What the whole library may cost a restore of so many descriptors, in ms.
const TARGETS: [(u64, f64); 2] = [(10, 0.3), (10_000, 5.0)];

fn main() {
    let list = |variable, list: &str, action| {
        parse_list(variable, list.as_bytes(), &action, 1024).expect("a list")
    };
    let wanted: Option<u64> = std::env::args().find_map(|word| word.parse().ok());
    for (preserve, ignore) in [("1,2", "5"), ("1", "3-")] {
        let mut items = list("CKPT_PRESERVE", preserve, Action::Preserve);
        items.extend(list("CKPT_IGNORE", ignore, Action::Ignore));
        let advice = Advice {
            items,
            strictness: Strictness::Warn,
        };
        let counts = [10, 100, 1_000, 10_000];
        for count in counts
            .into_iter()
            .filter(|it| wanted.is_none_or(|only| only == *it))
        {
            let directory = InMemory::new(count);
            let mut times: Vec<(Duration, Duration)> = (0..200)
                .map(|_| {
                    let start = Instant::now();
                    let image = Image::read(&directory).expect("an image");
                    let read = start.elapsed();
                    let paths = Box::new(NoPaths);
                    let naming = Naming::Inherited;
                    let rewrite = rewrite(&image, &directory, &advice, caller(), paths, naming);
                    black_box(rewrite.expect("advice that can be carried out"));
                    (start.elapsed(), read)
                })
                .collect();
            times.sort();
            let ((best, _), (median, read)) = (times[0], times[times.len() / 2]);
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (best, median, read) = (ms(best), ms(median), ms(read));
            let target = match TARGETS.iter().find(|(of, _)| *of == count) {
                Some((_, most)) => format!("; target {most} ms"),
                None => String::new(),
            };
            println!(
                "PRESERVE={preserve} IGNORE={ignore} {count:>6} descriptors: median {median:.3} ms \
                 (reading {read:.3}), best {best:.3}{target}"
            );
        }
    }
}
