//! Writes the seeds.
//!
//! ```text
//! cargo run --example seeds
//! cargo run --example seeds -- --whole DIRECTORY
//! ```

#[path = "../image/tests/generator/build.rs"]
#[allow(dead_code)]
mod build;

#[path = "../image/tests/criu_images/build.rs"]
#[allow(dead_code)]
mod criu;

/// The files of a CRIU image in an input of `criu_rewrite`.
#[path = "cases/criu_files.rs"]
#[allow(dead_code)]
mod criu_files;

use build::{Datagram, File, Head, Kind, Machine, Name, Process, Recipe, Sender, build, head_only};
use ckpt_image::marks;
use std::fs;
use std::path::Path;

fn file(kind: Kind) -> File {
    File {
        kind,
        own_cred: false,
    }
}

fn process(table: &[(i32, usize)]) -> Process {
    Process {
        table: table.iter().map(|&(n, file)| (n, (file, n == 9))).collect(),
        ..Process::default()
    }
}

fn recipe(files: Vec<Kind>, processes: Vec<Process>) -> Recipe {
    Recipe {
        processes,
        files: files.into_iter().map(file).collect(),
        ..Recipe::default()
    }
}

/// Name, IGNORE, PRESERVE, image.
fn recipes() -> Vec<(&'static str, &'static str, &'static str, Recipe)> {
    let log = || Kind::Regular(1, true, 0);
    let data = || Kind::Regular(2, false, 5);
    let mut fork = recipe(
        vec![Kind::Device, log(), data()],
        vec![
            process(&[(0, 0), (1, 1), (3, 2)]),
            process(&[(1, 1), (3, 2), (5, 2)]),
            Process {
                zombie: true,
                ..Process::default()
            },
            Process {
                shares: Some(0),
                threads: 1,
                ..Process::default()
            },
        ],
    );
    fork.processes[1].maps = vec![2];
    fork.files[1].own_cred = true;
    let mut terminal = recipe(
        vec![Kind::Terminal(0), data(), Kind::Epoll(vec![(0, 0), (1, 3)])],
        vec![process(&[(0, 0), (1, 0), (2, 0), (3, 1), (6, 2)])],
    );
    terminal.processes[0].leader = Some(0);
    let pipes = recipe(
        vec![
            Kind::Pipe(0, false, 5),
            Kind::Pipe(0, true, 0),
            Kind::Fifo(3),
            Kind::Eventfd(7),
            data(),
        ],
        vec![process(&[(0, 0), (1, 1), (3, 2), (4, 3), (9, 4)])],
    );
    let mut sockets = recipe(
        vec![Kind::Socket(0, false, 1), Kind::Socket(0, true, 0), data()],
        vec![process(&[(3, 0), (4, 1), (5, 2)])],
    );
    sockets.early = vec![(0, 2)];
    let bound = |name, to, messages| {
        Kind::Datagram(Datagram {
            name: Some(name),
            unlinked: false,
            to,
            messages,
        })
    };
    let mut names = recipe(
        vec![
            bound(Name::Relative, None, vec![Sender::Live(1), Sender::Dead(0)]),
            bound(Name::Abstract, Some(0), vec![Sender::Dead(0)]),
            Kind::Listener(Name::Path),
            Kind::Epoll(vec![(0, 3), (2, 5)]),
        ],
        vec![
            process(&[(3, 0), (4, 1), (5, 2), (6, 3)]),
            Process {
                shares: Some(0),
                ..Process::default()
            },
        ],
    );
    names.surplus = 3;
    let net = recipe(
        vec![
            Kind::Port(1),
            Kind::Connection(0, false, 2),
            Kind::Connection(0, true, 0),
            Kind::Connection(1, false, 1),
            Kind::Udp(2, 1),
        ],
        vec![process(&[(3, 0), (4, 1), (5, 2), (6, 3), (7, 4)])],
    );
    let pair = recipe(
        vec![
            Kind::Terminal(0),
            Kind::Terminal(1),
            Kind::Master(1),
            data(),
        ],
        vec![
            process(&[(0, 0), (3, 1)]),
            process(&[(3, 1), (4, 2), (9, 3)]),
        ],
    );
    vec![
        ("names", "3,110:5", "0", names),
        ("net", "4,7", "6", net),
        ("pair", "3", "0", pair),
        ("fork", "1,101:5", "0", fork),
        ("terminal", "3", "0-2", terminal),
        ("pipes", "*:9", "root:2", pipes),
        ("sockets", "5-", "7", sockets),
    ]
}

fn write(path: &Path, bytes: &[u8]) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a directory for seeds");
    }
    fs::write(path, bytes).expect("a seed");
}

/// Name, IGNORE, PRESERVE, image.
fn criu_images() -> Vec<(&'static str, &'static str, &'static str, criu::World)> {
    use criu::{Made, one_task};
    let plain = one_task(
        &[Made::Reg, Made::Pipe, Made::Tty, Made::Deleted],
        &[1, 3, 5, 7],
    );
    let mut watched = one_task(&[Made::Eventfd, Made::Epoll(vec![3, 4])], &[3, 9]);
    watched.tables[0].extend([(4, 0), (6, 0)]);
    let mut pairs = one_task(&[Made::Pair, Made::Other, Made::Reg], &[3, 4, 5]);
    pairs.tables.push([(3, 0)].into());
    pairs.in_flight.push((1, 2));
    let mut shared = one_task(&[Made::Datagrams, Made::OtherDatagrams], &[3, 4]);
    shared.shared = true;
    let mut locks = one_task(&[Made::Reg, Made::Reg], &[3, 4]);
    locks.tables[0].insert(8, 0);
    locks.locks = vec![(2, 100, 3), (1, 100, 4)];
    vec![
        ("plain", "3,7", "1,5", plain),
        ("watched", "3", "4", watched),
        ("pairs", "root:4,5", "", pairs),
        ("shared", "101:3", "*:8", shared),
        ("locks", "3,4", "", locks),
    ]
}

const RECORDS: [(&str, &str); 5] = [
    ("empty", "{\"ckptadv\":1}"),
    (
        "one",
        "{\"ckptadv\":1,\"left_out\":[{\"task\":17,\"fd\":7,\"id\":0,\"flags\":2,\"kind\":\"chr\",\"file\":\"/dev/fuse\"}]}",
    ),
    (
        "twice",
        "{\"ckptadv\":1,\"left_out\":[{\"task\":1,\"fd\":3,\"id\":1,\"flags\":2,\"kind\":\"chr\",\"file\":\"/dev/fuse\"}],\
         \"left_out\":[{\"task\":1,\"fd\":3,\"id\":1,\"flags\":2,\"kind\":\"chr\",\"file\":\"/dev/fuse\"}]}",
    ),
    (
        "whole",
        "{\"ckptadv\":1,\"left_out\":[\n {\"task\":17,\"fd\":7,\"id\":3,\"flags\":2,\"kind\":\"chr\",\"file\":\"/dev/fuse\"}\n],\
         \"asks\":[\n {\"task\":17,\"fd\":5,\"mark\":41,\"kind\":\"reg\",\"file\":\"/a \\u0041\"}\n]}\n",
    ),
    (
        "later",
        "{\"ckptadv\":1,\"x\":[{\"y\":[null,true,-1.5e3]}],\"left_out\":[\n {\"fd\":3,\"task\":1,\"id\":1,\"flags\":524288,\
         \"kind\":\"new\",\"file\":\"\\u00e9\\\"\\n\",\"more\":{}}]}",
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (lean, root) = match arguments.as_slice() {
        [whole, directory] if whole == "--whole" => (false, Path::new(directory)),
        _ => (
            true,
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")),
        ),
    };
    for (name, ignore, preserve, mut recipe) in recipes() {
        recipe.lean = lean;
        for late in [false, true] {
            recipe.late = late;
            let image = build(&recipe);
            let name = format!("{}-{name}", if late { "v23" } else { "v20" });
            write(&root.join("linux_cr_survey").join(&name), &image);
            let mut input = vec![if late { 61 } else { 0 }];
            input.extend(format!("{ignore}\n{preserve}\n").bytes());
            input.extend(image);
            write(&root.join("linux_cr_rewrite").join(&name), &input);
        }
    }
    // The other order of bytes, the other length of addresses.
    for (machine, late) in [(Machine::S390x, false), (Machine::X86_32, true)] {
        for (name, ignore, preserve, mut recipe) in recipes() {
            (recipe.lean, recipe.late, recipe.machine) = (lean, late, machine);
            let name = format!("{}-{name}", machine.name());
            let mut input = format!("\0{ignore}\n{preserve}\n").into_bytes();
            input.extend(build(&recipe));
            write(&root.join("linux_cr_rewrite").join(&name), &input);
        }
    }
    if !lean {
        return;
    }
    let old = head_only(&Head {
        arch: 2,
        kernel: (2, 6, 31),
        revision: 3,
        big_endian: true,
        pids: false,
        task_len: 72,
    });
    write(&root.join("linux_cr_survey/v18-s390x"), &old);
    for (name, ignore, preserve, world) in criu_images() {
        let mut input = format!("{ignore}\n{preserve}\n").into_bytes();
        input.extend(criu_files::input(&world.files()));
        write(&root.join("criu_rewrite").join(name), &input);
    }
    let table = marks::header(1024)
        .into_iter()
        .chain([2, 41, 46, 0, 0x7ff])
        .flat_map(u64::to_ne_bytes);
    write(&root.join("marks/table"), &table.collect::<Vec<u8>>());
    let maps = "7f00-7f01 ---p 00000000 00:00 0 \n7f01-7f04 rw-p 00000000 00:00 0 \n";
    write(&root.join("marks/maps"), maps.as_bytes());
    for (name, text) in RECORDS {
        write(&root.join("criu_record").join(name), text.as_bytes());
    }
    let lists = [
        ("ignore", "\x000,3-5,root:7,*:9-,4242:1"),
        ("preserve", "\x010-2, 12"),
        (
            "substitute",
            "\x02type=tty=/dev/null,/var/log/{a,b}*.log=1,id=0x1f=/a\\,b",
        ),
        ("paths", "\x00/**/x/[!a-c]?.log,/a\\,b"),
    ];
    for (name, list) in lists {
        write(&root.join("advice_list").join(name), list.as_bytes());
    }
}
