//! What a real kernel said to images with one thing changed, and what is said to them beforehand where there is
//! advice: what it refused is refused, and what it took is taken.

use ckpt_image::advice::{Action, Advice, Strictness, parse_list};
use ckpt_image::caller::Caller;
use ckpt_image::linux_cr::rewrite::Rewriter;
use ckpt_image::plan::Planner;
use harness::edit;
use harness::linux_cr::{Feed, Restart, Verdict, image, table};

/// Refused by the kernel for where it was restarted, and not for what is in it.
const OF_THE_PLACE: [&str; 4] = [
    // More descriptors than the restart program may have.
    "file-number-1500",
    // It came through a pipe.
    "pipe-65536",
    // The directory of the socket was not there.
    "dgram-relative",
    // A setting of the machine: how many datagrams may wait.
    "dgram-backlog-11",
];

/// A kernel may write it, and only what becomes of it tells.
const OF_ITS_OWN: [&str; 1] = [
    // Some file systems give a file such a bit.
    "mode-exotic",
];

/// Taken by the kernel, and nothing that one ever wrote.
const BY_ACCIDENT: [&str; 1] = ["pipe-parked-is-file"];

/// Why an image is refused where advice means a descriptor that it has not.
fn refusal(image: &[u8]) -> Option<String> {
    refusal_of(image, "999")
}

/// The same where these numbers are ignored.
fn refusal_of(image: &[u8], numbers: &str) -> Option<String> {
    let advice = Advice {
        items: parse_list("CKPT_IGNORE", numbers.as_bytes(), &Action::Ignore, 1024)
            .expect("a list"),
        strictness: Strictness::Warn,
    };
    let planner = Planner::new(&advice, Caller::default(), false).expect("a plan");
    let mut rewriter = Rewriter::new(planner, Box::new(|_| None));
    let fed = rewriter.feed(image).and_then(|()| rewriter.finish());
    fed.err().map(|error| error.to_string())
}

#[test]
fn what_a_kernel_wrote_is_taken() {
    for row in table("outcomes.tsv") {
        assert_eq!(refusal(&image(&row[0])), None, "{}", row[0]);
    }
}

#[test]
fn what_a_kernel_refused_is_refused_before() {
    let mut wrong = Vec::new();
    for row in table("edited.tsv") {
        let (name, result) = (row[0].as_str(), &row[2]);
        let refusal = refusal(&image(&format!("edited/{name}")));
        let expected = match result.as_str() {
            "restarted" => BY_ACCIDENT.contains(&name),
            _ => ![&OF_THE_PLACE[..], &OF_ITS_OWN].concat().contains(&name),
        };
        if refusal.is_some() != expected {
            wrong.push(format!("{name}: kernel {result}, here {refusal:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every image with one record changed, and what is not refused by the offset of a record.
fn not_refused(change: impl Fn(&[u8], edit::Place) -> Vec<u8>) -> Vec<String> {
    let mut taken = Vec::new();
    for row in table("outcomes.tsv") {
        let (name, whole) = (&row[0], image(&row[0]));
        for place in edit::places(&whole) {
            match refusal(&change(&whole, place)) {
                Some(why) if why.starts_with("image: offset ") => {}
                other => taken.push(format!("{name}: {} at {}: {other:?}", place.kind, place.at)),
            }
        }
    }
    taken.dedup();
    taken
}

#[test]
fn no_record_may_be_missing() {
    let taken = not_refused(|image, place| edit::splice(image, place.at, place.length, &[]));
    assert!(taken.is_empty(), "{}", taken.join("\n"));
}

#[test]
fn no_record_may_come_twice() {
    const TAIL: u32 = 9001;
    let twice = |image: &[u8], place: edit::Place| {
        let again = image[place.at..place.at + place.length].to_vec();
        edit::splice(image, place.at, 0, &again)
    };
    let mut taken = not_refused(twice);
    // Nobody reads what follows it.
    taken.retain(|line| !line.contains(&format!(": {TAIL} at ")));
    assert!(taken.is_empty(), "{}", taken.join("\n"));
}

mod kind {
    pub const TASK: u32 = 102;
    pub const FILE_DESC: u32 = 302;
    pub const FILE: u32 = 304;
    pub const TTY: u32 = 306;
    pub const LDISC: u32 = 307;
    pub const ITEMS: u32 = 308;
    pub const SOCKET: u32 = 701;
    pub const QUEUE: u32 = 702;
    pub const MESSAGE: u32 = 703;
    pub const UNIX: u32 = 705;
    pub const INET: u32 = 706;
}

/// An image, the which-th record of a type in it, and what stands at an offset of that: what is said to it.
type Field = (&'static str, u32, usize, usize, &'static [u8], &'static str);

const FIELDS: &[Field] = {
    use kind::*;
    const LESS_THAN_NOTHING: &[u8] = &[0xff; 4];
    &[
        ("zombie", TASK, 1, 12, &[32], "exit state 32"),
        ("files", FILE_DESC, 0, 12, LESS_THAN_NOTHING, "number -1"),
        (
            "files",
            FILE_DESC,
            0,
            12,
            &[0, 0, 0x10, 0],
            "number 1048576",
        ),
        ("files", FILE, 0, 8, &[0], "type 0"),
        ("files", FILE, 0, 8, &[8], "type 8"),
        (
            "files",
            FILE,
            2,
            12,
            &[0x1e],
            "mode 0x1e of a file with flags",
        ),
        ("files", FILE, 2, 15, &[0x80], "mode"),
        ("files", FILE, 2, 24, &[0xff; 8], "descriptor 3: offset -1"),
        (
            "files",
            FILE,
            2,
            27,
            &[0x80],
            "descriptor 3: offset 0x80000005",
        ),
        ("files", FILE, 2, 16, &[0x42], "create or truncate"),
        ("pipe", FILE, 2, 12, &[2], "mode 0x2 of a file with flags"),
        (
            "pipe",
            FILE,
            2,
            12,
            &[0x1d],
            "descriptor 3: a pipe that was opened by a path",
        ),
        ("pipe", FILE, 2, 48, &[0; 4], "pipe 0"),
        ("fifo", FILE, 2, 12, &[0x1f], "has no offset"),
        ("fifo", FILE, 2, 12, &[2], "mode 0x2 of a file with flags"),
        ("eventfd-epoll", FILE, 2, 12, &[0x1f], "has no offset"),
        ("eventfd-epoll", FILE, 2, 12, &[2], "mode 0x2"),
        (
            "eventfd-epoll",
            FILE,
            2,
            56,
            &[2],
            "an eventfd with flags 0o2",
        ),
        ("eventfd-epoll", FILE, 5, 12, &[0x1f], "has no offset"),
        ("eventfd-epoll", ITEMS, 0, 8, &[8], "no epoll set"),
        ("socketpair", FILE, 2, 12, &[2], "mode 0x2"),
        ("socketpair", FILE, 2, 48, &[0], "object 0 as a socket"),
        ("pty", FILE, 2, 12, &[0x1f], "has no offset"),
        (
            "pty",
            FILE,
            3,
            12,
            &[2],
            "descriptor 4: a terminal that is open for writing only",
        ),
        ("pty", TTY, 0, 8, &[3], "driver 3"),
        ("pty", TTY, 0, 10, &[3], "end 3"),
        ("pty", TTY, 0, 12, &[11], "its own master"),
        ("pty", TTY, 0, 16, &[0], "a master with file 0"),
        ("pty", TTY, 0, 16, &[8], "its file 8 is another object"),
        ("pty", TTY, 0, 10, &[2], "a slave without a master"),
        ("pty", TTY, 1, 10, &[1], "a master whose master is"),
        ("pty", TTY, 1, 16, &[99], "a slave with file 99"),
        ("pty", TTY, 1, 28, &[1], "line discipline 1"),
        ("pty", TTY, 1, 32, &[0x81], "flags"),
        ("pty", TTY, 0, 34, &[4], "hung up"),
        ("pty", TTY, 1, 33, &[2], "whose line discipline is not open"),
        ("pty", LDISC, 1, 12, &[1, 0x10], "bytes of input 4097"),
        ("pty", LDISC, 1, 20, &[1, 0x10], "bytes of lines 4097"),
        ("socketpair", SOCKET, 0, 16, &[5], "state of its file 5"),
        (
            "socketpair",
            SOCKET,
            0,
            16,
            &[2],
            "whose file is in state 2",
        ),
        (
            "socketpair",
            SOCKET,
            0,
            32,
            &[2],
            "expected the SOCKET_INET",
        ),
        ("socketpair", SOCKET, 0, 53, &[1], "flags"),
        ("socketpair", SOCKET, 0, 73, &[0x20], "error 8192"),
        ("socketpair", SOCKET, 0, 92, &[4], "type 4"),
        ("socketpair", SOCKET, 0, 97, &[12], "state 12"),
        (
            "socketpair",
            SOCKET,
            0,
            97,
            &[7],
            "a connected unix socket in state 7",
        ),
        (
            "unix-dgram",
            SOCKET,
            0,
            97,
            &[2],
            "a unix socket in state 2",
        ),
        ("unix-dgram", SOCKET, 0, 97, &[10], "not listened for"),
        ("socketpair", SOCKET, 0, 98, &[4], "shut down"),
        ("socketpair", SOCKET, 0, 99, &[0x10], "locks"),
        ("socketpair", UNIX, 0, 8, &[77], "another one's number"),
        ("socketpair", UNIX, 0, 12, LESS_THAN_NOTHING, "peer -1"),
        ("socketpair", UNIX, 0, 12, &[77], "peer 77 of socket"),
        ("unix-dgram", UNIX, 0, 28, &[111], "an address of 111 bytes"),
        ("unix-dgram", UNIX, 0, 36, &[0], "an address of family 0"),
        ("unix-listen", UNIX, 0, 28, &[2], "without a name"),
        ("tcp-conn", INET, 0, 288, &[17], "bytes of its address 17"),
        ("tcp-conn", INET, 1, 292, &[17], "bytes of its peer's 17"),
        ("socketpair", QUEUE, 0, 12, &[1], "more bytes than"),
        ("socketpair", QUEUE, 0, 8, &[3], "messages less"),
        (
            "socketpair",
            MESSAGE,
            0,
            20,
            &[1],
            "after the SOCKET_BUFFER",
        ),
        (
            "socketpair",
            MESSAGE,
            0,
            54,
            &[1],
            "1 fragments for a unix socket",
        ),
        ("socketpair", MESSAGE, 0, 54, &[18], "fragments 18"),
        ("socketpair", MESSAGE, 0, 44, &[0], "nobody sent"),
        ("socketpair", MESSAGE, 0, 48, &[0], "object 0 as a socket"),
    ]
};

/// What a kernel wrote and none restores may be in an image, as long as it is left out.
#[test]
fn what_is_dropped_may_be_what_it_is() {
    for (name, n, at, value, numbers) in [
        ("files", 2, 24, &[0xff; 8][..], "3,4"),
        ("files", 2, 27, &[0x80], "3,4"),
        ("pipe", 2, 12, &[0x1d], "3,4,5"),
        ("pty", 3, 12, &[2], "4"),
        ("pty", 2, 12, &[2], "3,4"),
    ] {
        let image = changed(name, kind::FILE, n, at, value);
        assert!(refusal(&image).is_some_and(|why| why.contains("ignore ")));
        assert_eq!(refusal_of(&image, numbers), None, "{name} {n} {at}");
    }
}

/// An executable is opened and moved as well, and no advice leaves it out.
#[test]
fn an_offset_that_crashes_a_kernel_is_refused_where_it_is_mapped() {
    let image = changed("files", kind::FILE, 8, 27, &[0x80]);
    let why = refusal(&image).expect("a refusal");
    assert!(
        why.contains("what task 534 has mapped: offset 0x80000000"),
        "{why}"
    );
}

/// The which-th record of a type of an image with another value at an offset of it.
fn changed(name: &str, kind: u32, n: usize, at: usize, value: &[u8]) -> Vec<u8> {
    let mut image = image(name);
    let places = edit::places(&image);
    let of_kind = places.iter().filter(|place| place.kind == kind);
    let start = of_kind.map(|place| place.at).nth(n).expect("a record") + at;
    image[start..start + value.len()].copy_from_slice(value);
    image
}

/// What no kernel restores is said before a task is there; the model of one agrees.
#[test]
fn fields_that_no_kernel_takes_are_refused() {
    let mut wrong = Vec::new();
    for &(name, kind, n, at, value, word) in FIELDS {
        let image = changed(name, kind, n, at, value);
        let what = format!("{name}: {kind} {n} at {at} is {value:?}");
        match refusal(&image) {
            Some(why) if why.contains(word) => {}
            other => wrong.push(format!("{what}: {other:?}, and not {word:?}")),
        }
        if !harness::is_root() {
            continue;
        }
        let outcome = Restart::new(&image).scenario(name).feed(Feed::Pipe).run();
        if !matches!(outcome.verdict, Verdict::Failed { .. }) {
            wrong.push(format!("{what}: the model: {:?}", outcome.verdict));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
