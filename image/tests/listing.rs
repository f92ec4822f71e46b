//! What an image is said to hold: every version and byte order, the images that
//! a kernel wrote, and as JSON.

use ckpt_image::advice::Kind;
use ckpt_image::json::{Json, Lines, Object};
use ckpt_image::linux_cr::survey::Surveyor;
use ckpt_image::listing::{Description, Listing, Reference};
use ckpt_image::plan::{Change, Fate, Origin};
use ckpt_image::report::{Failure, Outcome, Report};
use proptest::prelude::*;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What differs between versions, by the tables of the format.
struct Version {
    name: &'static str,
    kernel: [u16; 3],
    revision: u16,
    /// One entry of the task tree.
    tree: usize,
    task_len: usize,
    file_len: usize,
    /// Object types of a file table, a file and a socket.
    objects: [u32; 3],
    /// SOCKET: length, and where its state stands.
    socket: [usize; 2],
    /// SOCKET_UNIX, and where its lengths stand.
    unix: (u32, usize),
    inet_len: usize,
    /// SOCKET_BUFFER tells whose it is.
    owner: bool,
}

const V20: Version = Version {
    name: "v20",
    kernel: [2, 6, 33],
    revision: 5,
    tree: 24,
    task_len: 64,
    file_len: 48,
    objects: [2, 3, 16],
    socket: [112, 97],
    unix: (705, 28),
    inet_len: 328,
    owner: true,
};

const VERSIONS: &[Version] = &[
    Version {
        name: "v18",
        kernel: [2, 6, 32],
        revision: 3,
        task_len: 72,
        file_len: 40,
        objects: [2, 3, 14],
        unix: (704, 28),
        inet_len: 48,
        owner: false,
        ..V20
    },
    Version {
        name: "v19-rc2",
        revision: 4,
        objects: [2, 3, 15],
        ..V20
    },
    V20,
    Version {
        name: "v21",
        kernel: [2, 6, 34],
        revision: 6,
        ..V20
    },
    // As it was for some weeks.
    Version {
        name: "v21",
        kernel: [2, 6, 34],
        revision: 6,
        tree: 32,
        ..V20
    },
    Version {
        name: "v22 or v23-rc1",
        kernel: [2, 6, 35],
        revision: 6,
        task_len: 80,
        socket: [120, 105],
        unix: (705, 24),
        ..V20
    },
    Version {
        name: "v23-rc2",
        kernel: [2, 6, 37],
        revision: 6,
        task_len: 80,
        objects: [3, 4, 17],
        socket: [120, 105],
        unix: (705, 24),
        ..V20
    },
];

/// Records in one byte order.
struct Image {
    big: bool,
    bytes: Vec<u8>,
}

/// A record of which the fields are written one by one.
struct Body(Vec<u8>, bool);

impl Body {
    fn at(mut self, at: usize, value: u32) -> Self {
        let bytes = if self.1 {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        };
        self.0[at - 8..at - 4].copy_from_slice(&bytes);
        self
    }

    fn short(mut self, at: usize, value: u16) -> Self {
        let bytes = if self.1 {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        };
        self.0[at - 8..at - 6].copy_from_slice(&bytes);
        self
    }

    fn long(self, at: usize, value: u64) -> Self {
        let (high, low) = ((value >> 32) as u32, value as u32);
        match self.1 {
            true => self.at(at, high).at(at + 4, low),
            false => self.at(at, low).at(at + 4, high),
        }
    }

    fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at - 8..at - 8 + bytes.len()].copy_from_slice(bytes);
        self
    }
}

impl Image {
    fn body(&self, len: usize) -> Body {
        Body(vec![0; len - 8], self.big)
    }

    fn add(&mut self, kind: u32, body: Body) {
        let prefix = self.body(16).at(8, kind).at(12, body.0.len() as u32 + 8);
        self.bytes.extend(prefix.0);
        self.bytes.extend(body.0);
    }

    fn text(&mut self, kind: u32, text: &str) {
        let body = Body([text.as_bytes(), b"\0"].concat(), self.big);
        self.add(kind, body);
    }

    fn objref(&mut self, object: u32, id: u32) {
        let body = self.body(16).at(8, object).at(12, id);
        self.add(6, body);
    }

    fn file(&mut self, version: &Version, kind: u32, mode: u32, behind: Option<u32>) {
        let len = version.file_len;
        let body = self.body(len + if behind.is_some() { 8 } else { 0 });
        let body = body
            .at(8, kind)
            .at(12, mode)
            .at(16, [0, 0, 1, 2][mode as usize & 3]);
        let body = match behind {
            Some(behind) => body.at(len, behind),
            None => body.long(24, 5),
        };
        self.add(304, body);
    }

    fn descriptor(&mut self, id: u32, number: u32) {
        let body = self.body(24).at(8, id).at(12, number);
        self.add(302, body);
    }
}

/// Two processes that share a file table: a file, a pipe with four bytes, a
/// listening unix socket with a relative name, a connection of the internet with
/// seven bytes in its receive queue.
fn shared_table(version: &Version, big: bool) -> Vec<u8> {
    let mut image = Image {
        big,
        bytes: Vec::new(),
    };
    let late = u32::from(version.name == "v23-rc2");
    let [table, file, socket] = version.objects;
    let header = image.body(72).long(8, 0x00fe_ed0c_c0a2_d200);
    let [major, minor, patch] = version.kernel;
    let header = header.bytes(16, &1u16.to_le_bytes());
    let header = header.short(18, major).short(20, minor).short(22, patch);
    let header = header.short(24, version.revision);
    image.add(1, header);
    for _ in 0..3 {
        image.text(4, "text");
    }
    image.add(2, image.body(16));
    image.add(3, image.body(8));
    if version.revision >= 4 {
        image.text(4, "lsm_none");
        image.text(7, "dummy");
    }
    if late == 1 {
        image.add(101, image.body(24).at(8, 2).at(12, 2).at(16, 1));
        image.add(4, image.body(24).at(12, 100).at(20, 101));
    }
    image.add(101 + late, image.body(16).at(8, 2));
    let pid = |pid: u32| if late == 1 { pid - 99 } else { pid };
    let mut tree = image.body(8 + 2 * version.tree);
    for (at, who, parent) in [(8, 100, 99), (8 + version.tree, 101, 100)] {
        tree = tree
            .at(at, pid(who))
            .at(at + 4, pid(parent))
            .at(at + 8, pid(who));
    }
    image.add(4, tree);

    image.add(102 + late, image.body(version.task_len));
    image.text(5, "parent");
    image.objref(table, 7);
    image.add(301, image.body(16).at(8, 4));
    image.objref(file, 8);
    image.file(version, 1, 0x1d, None);
    image.text(303, "/a");
    image.descriptor(8, 0);
    image.objref(file, 9);
    image.file(version, 2, 1, Some(10));
    image.add(305, image.body(12));
    image.descriptor(9, 3);

    let (unix, lengths) = version.unix;
    let [len, state] = version.socket;
    image.objref(file, 11);
    image.objref(socket, 12);
    image.add(701, image.body(len).bytes(state, &[10]));
    let address = image.body(256).at(8, 12).at(lengths, 2 + 5);
    image.add(unix, address.bytes(lengths + 8 + 2, b"sock\0"));
    image.text(5, "/run");
    image.file(version, 4, 3, Some(12));
    image.descriptor(11, 4);

    image.objref(file, 13);
    image.objref(socket, 14);
    image.add(701, image.body(len).bytes(state, &[1]));
    let lengths = version.inet_len - 40;
    let address = image
        .body(version.inet_len)
        .at(lengths, 16)
        .at(lengths + 4, 16);
    let address = address.bytes(lengths + 8 + 2, &[0, 80, 10, 0, 0, 1]);
    let address = address.bytes(lengths + 24 + 2, &[1, 0, 10, 0, 0, 2]);
    image.add(unix + 1, address);
    image.file(version, 4, 3, Some(14));
    image.descriptor(13, 5);
    image.add(702, image.body(16).at(8, 1).at(12, 7));
    let buffer = image.body(if version.owner { 104 } else { 16 });
    image.add(
        703,
        if version.owner {
            buffer.at(48, 14)
        } else {
            buffer
        },
    );
    image.text(4, "linear");
    image.add(702, image.body(16));

    image.add(104 + late, image.body(32).at(8, 7));
    image.add(102 + late, image.body(version.task_len));
    image.text(5, "child");
    image.add(104 + late, image.body(32).at(8, 7));
    image.add(9001, image.body(16).long(8, 0x002d_2a0c_c0de_ef00));
    image.bytes
}

fn listing(image: &[u8]) -> Listing {
    let mut surveyor = Surveyor::default();
    surveyor.feed(image).unwrap();
    let (survey, layout) = surveyor.finish().unwrap();
    survey.listing(layout.as_ref())
}

fn parsed(value: &impl Json) -> Value {
    let mut text = String::new();
    value.json(&mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn every_version_in_either_byte_order_is_shown() {
    for version in VERSIONS {
        for big in [false, true] {
            let shown = listing(&shared_table(version, big));
            let name = version.name;
            assert!(shown.format.contains(name), "{} is no {name}", shown.format);
            // No x86_32 is big-endian.
            let edited = matches!(name, "v20" | "v23-rc2") && !big;
            assert_eq!(shown.advisable, edited, "{name} {big}");
            let tasks: Vec<_> = shown
                .tasks
                .iter()
                .map(|t| (t.pid, t.command.as_str()))
                .collect();
            assert_eq!(tasks, [(100, "parent"), (101, "child")], "{name} {big}");
            assert_eq!(shown.tasks[1].parent, 100);
            assert_eq!(shown.tables.len(), 1, "{name} {big}");
            assert_eq!(shown.tables[0].tasks, [100, 101]);
            let [file, pipe, unix, inet] = shown.descriptions.as_slice() else {
                panic!("{name} {big}: {:?}", shown.descriptions);
            };
            assert_eq!(
                (file.kind, file.name.as_str(), file.position),
                (Kind::Reg, "/a", Some(5))
            );
            assert_eq!((pipe.kind, pipe.queued), (Kind::Pipe, Some(4)));
            assert_eq!(pipe.others().map(Iterator::count), Some(0), "nobody writes");
            assert_eq!(
                unix.path.as_deref(),
                Some(b"/run/sock".as_slice()),
                "{name} {big}"
            );
            assert_eq!(unix.state, Some("listening"));
            assert_eq!(
                (inet.name.as_str(), inet.remote.as_deref()),
                ("10.0.0.1:80", Some("10.0.0.2:256"))
            );
            assert_eq!(
                inet.queued,
                Some(if version.owner { 7 } else { 0 }),
                "{name} {big}"
            );
            let held: Vec<_> = shown.descriptors(inet).collect();
            assert_eq!(held, [(100, 5), (101, 5)]);
        }
    }
}

fn images() -> impl Iterator<Item = (String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/images");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "ckpt")
        })
        .collect();
    paths.sort();
    assert!(paths.len() > 20);
    paths.into_iter().map(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(path).unwrap())
    })
}

fn image(name: &str) -> Listing {
    let (_, bytes) = images().find(|(other, _)| other == name).unwrap();
    listing(&bytes)
}

/// The description behind a number of the first table.
fn behind(listing: &Listing, number: i32) -> &Description {
    let found = listing.tables[0]
        .descriptors
        .iter()
        .find(|d| d.number == number);
    let id = found.unwrap().description;
    listing.descriptions.iter().find(|d| d.id == id).unwrap()
}

fn others(of: &Description) -> Vec<u64> {
    of.others().expect("it has another end").collect()
}

#[test]
fn the_two_ends_of_a_pipe_know_each_other() {
    let shown = image("pipe");
    let (reader, writer) = (behind(&shown, 3), behind(&shown, 4));
    assert_eq!(others(reader), [writer.id]);
    assert_eq!(others(writer), [reader.id]);
    assert_eq!(reader.queued, Some(10));
    assert!(
        others(behind(&shown, 6)).is_empty(),
        "its writer was closed"
    );
    assert!(behind(&shown, 1).others().is_none(), "a file has none");
}

#[test]
fn of_many_other_ends_the_rest_is_counted() {
    let mut shown = image("pipe");
    let description = &mut shown.descriptions[2];
    description.other_ends = Some((0..1000).collect());
    let (id, count) = (description.id, description.other_count());
    assert_eq!(count, 999, "not itself");
    let json = &parsed(&shown)["descriptions"][2];
    let named = json["other_ends"].as_array().unwrap();
    assert!(!named.contains(&id.into()));
    let more = json["more_ends"].as_u64().unwrap() as usize;
    assert_eq!(named.len() + more, count);
    assert!(named.len() < 100);
}

#[test]
fn sockets_know_their_names_peers_and_queues() {
    let shown = image("unix-conn");
    let [listener, client, accepted] = [3, 4, 5].map(|number| behind(&shown, number));
    assert_eq!(
        listener.path.as_deref(),
        Some(b"/mnt/unix-conn/sock".as_slice())
    );
    assert_eq!(listener.state, Some("listening"));
    assert_eq!(accepted.path, listener.path);
    assert_eq!(others(client), [accepted.id]);
    assert_eq!(others(accepted), [client.id]);
    assert_eq!((client.queued, accepted.queued), (Some(11), Some(11)));
    let shown = image("socketpair-dgram");
    let queued = [3, 4].map(|number| behind(&shown, number).queued);
    assert_eq!(queued, [Some(4), Some(9)]);
    assert!(others(behind(&image("socketpair-half"), 3)).is_empty());
    let shown = image("tcp-conn");
    let (connected, accepted) = (behind(&shown, 4), behind(&shown, 5));
    assert_eq!(accepted.name, "127.0.0.1:7003");
    assert_eq!(connected.remote.as_deref(), Some("127.0.0.1:7003"));
    assert_eq!(others(connected), [accepted.id]);
}

#[test]
fn terminals_know_their_other_end_and_whom_they_control() {
    let shown = image("pty-ctty");
    let (slave, master) = (behind(&shown, 0), behind(&shown, 3));
    assert_eq!(
        (slave.name.as_str(), master.name.as_str()),
        ("/dev/pts/0", "/dev/ptmx")
    );
    assert_eq!(others(slave), [master.id]);
    assert_eq!(others(master), [slave.id]);
    assert_eq!(slave.references, [Reference::ControllingTerminal(814)]);
    assert!(master.references.is_empty());
    let outside = image("example-v20");
    assert!(
        others(behind(&outside, 0)).is_empty(),
        "its master is not in the image"
    );
}

#[test]
fn what_refers_to_files_is_told() {
    let shown = image("eventfd-epoll");
    let (event, set) = (behind(&shown, 3), behind(&shown, 6));
    assert_eq!(event.count, Some(7));
    assert_eq!(event.references, [Reference::Epoll(set.id)]);
    let watched = [3, 4, 5].map(|number| (number, behind(&shown, number).id));
    assert_eq!(set.watches, watched);
    let stale = image("epoll-stale");
    let numbers: Vec<i32> = behind(&stale, 6)
        .watches
        .iter()
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(numbers, [3, 4], "by the number that it was added with");
    let mapped = image("mapped");
    assert_eq!(behind(&mapped, 3).references, [Reference::Mapping(911)]);
    let program = mapped
        .descriptions
        .iter()
        .find(|d| d.name == "/mnt/crh")
        .unwrap();
    assert_eq!(
        program.references,
        [Reference::Executable(911), Reference::Mapping(911)]
    );
}

#[test]
fn tables_are_shared_threads_are_not_processes_and_zombies_have_none() {
    let shared = image("shared-table");
    assert_eq!(shared.tables[0].tasks, [861, 863]);
    let threads = image("threads");
    assert_eq!(threads.tables[0].tasks, [837]);
    assert_eq!(threads.tasks[1].process, 837);
    let zombie = image("zombie");
    assert_eq!(zombie.tasks[1].table, None);
    let forked = image("fork-shared");
    assert_eq!(forked.tables.len(), 2);
    let held: Vec<_> = forked.descriptors(behind(&forked, 3)).collect();
    assert_eq!(held, [(886, 3), (888, 3), (888, 30)]);
}

#[test]
fn the_json_of_an_image_is_whole_and_agrees_with_itself() {
    for (name, bytes) in images() {
        let shown = listing(&bytes);
        let json = parsed(&shown);
        assert_eq!(json["version"], 1);
        assert_eq!(json["engine"], "linux-cr");
        let list = |field: &str| json[field].as_array().unwrap().clone();
        let ids: Vec<u64> = list("descriptions")
            .iter()
            .map(|d| d["id"].as_u64().unwrap())
            .collect();
        let held: usize = list("descriptions")
            .iter()
            .map(|d| d["descriptors"].as_array().unwrap().len())
            .sum();
        let mut there = 0;
        for table in list("tables") {
            let descriptors = table["descriptors"].as_array().unwrap();
            there += descriptors.len() * table["tasks"].as_array().unwrap().len();
            for descriptor in descriptors {
                assert!(
                    ids.contains(&descriptor["description"].as_u64().unwrap()),
                    "{name}"
                );
            }
        }
        assert_eq!(held, there, "{name}");
        for description in list("descriptions") {
            for end in description["other_ends"].as_array().into_iter().flatten() {
                assert!(
                    ids.contains(&end.as_u64().unwrap()),
                    "{name}: {description}"
                );
                assert_ne!(*end, description["id"], "{name}");
            }
        }
    }
}

#[test]
fn the_json_of_a_report_has_all_that_is_known() {
    let change = |was: Option<&str>, fate, gives: Option<&str>| Change {
        task: 7,
        number: 3,
        was: was.map(|was| was.to_owned().into()),
        fate,
        item: "CKPT_IGNORE=3".into(),
        gives: gives.map(str::to_owned),
    };
    let changes = [
        change(Some("reg /a"), Fate::Drop, None),
        change(
            Some("reg /a"),
            Fate::Give(Origin::Descriptor(4)),
            Some("/b"),
        ),
        change(None, Fate::Give(Origin::Descriptor(4)), None),
    ];
    let report = Report {
        format: Some("a \"format\"".to_owned()),
        failure: Some(Failure {
            errno: Some(17),
            message: "no\n".to_owned(),
        }),
        changes: &changes,
        unmatched: &["CKPT_IGNORE=9: none".to_owned()],
        ..Report::new(ckpt_image::listing::Engine::Criu, Outcome::Refused)
    };
    let json = parsed(&report);
    assert_eq!(json["outcome"], "refused");
    assert_eq!(json["format"], "a \"format\"");
    assert_eq!(json["error"]["errno"], 17);
    assert_eq!(json["error"]["message"], "no\n");
    let fates: Vec<&str> = (0..3)
        .map(|i| json["changes"][i]["fate"].as_str().unwrap())
        .collect();
    assert_eq!(fates, ["dropped", "replaced", "added"]);
    assert_eq!(json["changes"][1]["from"], 4);
    assert_eq!(json["changes"][1]["gives"], "/b");
    assert_eq!(json["changes"][2]["was"], Value::Null);
    assert_eq!(json["unmatched"][0], "CKPT_IGNORE=9: none");
    assert_eq!(json["warnings"], serde_json::json!([]));
    assert_eq!(json["microseconds"], Value::Null);
}

/// An object of anything.
struct Anything(String, u64, Vec<String>, Option<i32>);

impl Json for Anything {
    fn json(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        Object::new(out)
            .field(&self.0, &self.1)?
            .field("list", self.2.as_slice())?
            .field("lines", &Lines(self.2.iter()))?
            .field("number", &self.3)?
            .end()
    }
}

proptest! {
    #[test]
    fn others_read_what_is_written(
        name in "name.*",
        number: u64,
        list in proptest::collection::vec(".*|[\\x00-\\x9f\"\\\\]*", 0..4),
        maybe: Option<i32>,
    ) {
        let json = parsed(&Anything(name.clone(), number, list.clone(), maybe));
        prop_assert_eq!(&json[&name], &Value::from(number));
        prop_assert_eq!(&json["list"], &Value::from(list.clone()));
        prop_assert_eq!(&json["lines"], &Value::from(list));
        prop_assert_eq!(&json["number"], &Value::from(maybe));
    }
}
