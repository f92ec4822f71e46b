use super::*;
use crate::advice::parse_list;
use crate::criu::record;
use crate::marks::{self, IGNORE, Mark, PRESERVE, State};

/// Tasks as a kernel would know them.
#[derive(Default)]
struct Model {
    tasks: Vec<Task>,
    /// The open file description of each descriptor.
    of: BTreeMap<Place, u32>,
    links: BTreeMap<Place, Vec<u8>>,
    /// What sets watch: the number, and the description.
    sets: BTreeMap<u32, Vec<(i32, u32)>>,
    masters: BTreeMap<Place, u32>,
    locks: String,
    controlled: BTreeMap<i32, u32>,
}

impl Kernel for Model {
    fn order(&self, a: Place, b: Place) -> Ordering {
        self.of[&a].cmp(&self.of[&b])
    }

    fn link(&self, place: Place) -> Vec<u8> {
        self.links[&place].clone()
    }

    fn is_set(&self, place: Place) -> bool {
        self.links[&place] == EPOLL.as_bytes()
    }

    fn watches(&self, set: Place) -> Vec<Watch> {
        let lines: String = self.sets[&self.of[&set]]
            .iter()
            .map(|(number, _)| format!("tfd: {number} events: 19\n"))
            .collect();
        watches(lines.as_bytes())
    }

    fn is_watched(&self, set: Place, watch: Watch, target: Place) -> bool {
        let by_number = |(number, _): &&(i32, u32)| *number == watch.number;
        let mut watched = self.sets[&self.of[&set]].iter().filter(by_number);
        let (_, description) = watched.nth(watch.nth as usize).expect("the watch");
        self.of.get(&target) == Some(description)
    }

    fn locks(&self) -> Vec<u8> {
        self.locks.as_bytes().to_vec()
    }

    fn identity(&self, place: Place) -> Option<(u64, u64)> {
        let inode = self.links[&place].iter().map(|&b| u64::from(b)).sum();
        Some((1, inode))
    }

    fn flags(&self, _: Place) -> Option<i32> {
        Some(libc::O_RDONLY)
    }

    fn terminal_of_master(&self, master: Place) -> Option<u32> {
        self.masters.get(&master).copied()
    }

    fn controlling_terminal(&self, task: i32) -> Option<u32> {
        self.controlled.get(&task).copied()
    }
}

impl Model {
    /// One task, with the number, description and link of each descriptor.
    fn task(mut self, pid: i32, open: &[(i32, u32, &str)]) -> Self {
        let descriptors = open.iter().map(|(number, description, link)| {
            self.of.insert((pid, *number), *description);
            self.links.insert((pid, *number), link.as_bytes().to_vec());
            let kind = match *link {
                EPOLL => Kind::Epoll,
                EVENT => Kind::Eventfd,
                link if link.starts_with("socket:") => Kind::Unix,
                _ => Kind::Reg,
            };
            Open {
                number: *number,
                file: Some(OpenFile {
                    kind,
                    link: link.as_bytes().to_vec(),
                }),
            }
        });
        let descriptors = descriptors.collect();
        self.tasks.push(Task {
            pid,
            image_pid: pid - 100,
            threads: vec![pid + 1000],
            table: self.tasks.len(),
            descriptors,
            marks: Vec::new(),
        });
        self
    }

    fn set(mut self, description: u32, watched: &[(i32, u32)]) -> Self {
        self.sets.insert(description, watched.to_vec());
        self
    }

    fn ignore(&self, list: &str) -> Result<Plan, Error> {
        let items = parse_list("CKPT_IGNORE", list.as_bytes(), &Action::Ignore, 1024)?;
        let advice = at_a_dump(&Advice {
            items,
            ..Advice::default()
        })?;
        plan(&self.tasks, &advice, self)
    }

    fn refused(&self, list: &str) -> String {
        let error = self.ignore(list).expect_err(list);
        assert_eq!(error.errno(), libc::ENOTSUP);
        error.to_string()
    }
}

const EPOLL: &str = "anon_inode:[eventpoll]";
const EVENT: &str = "anon_inode:[eventfd]";

fn hidden(plan: &Plan) -> Vec<(i32, Vec<i32>)> {
    let list = plan.hidden.iter();
    list.map(|(pid, numbers)| (*pid, numbers.iter().copied().collect()))
        .collect()
}

/// What a plan shows of its only set: the numbers that the kernel has, and those that are shown.
fn shown(plan: &Plan) -> (Place, Vec<(i32, Option<i32>)>) {
    let [(set, shown)] = plan.sets.as_slice() else {
        panic!("{:?}", plan.sets);
    };
    let numbers = shown.watches.iter();
    (
        *set,
        numbers
            .map(|(watch, shown)| (watch.number, *shown))
            .collect(),
    )
}

#[test]
fn a_number_is_hidden_wherever_it_is_the_same_file() {
    let model = Model::default()
        .task(201, &[(1, 1, "/log"), (7, 2, "/a")])
        .task(202, &[(1, 1, "/log"), (7, 3, "/a")]);
    let plan = model.ignore("1,7").expect("a plan");
    assert_eq!(hidden(&plan), [(201, vec![1, 7]), (202, vec![1])]);
    let left_out: Vec<_> = plan
        .left_out
        .iter()
        .map(|l| (l.task, l.number, l.id, l.file.as_str()))
        .collect();
    let expected = [(101, 1, 0, "/log"), (101, 7, 1, "/a"), (102, 1, 0, "/log")];
    assert_eq!(left_out, expected);
    assert_eq!(
        model.ignore("202:7").expect("a plan").left_out[0].task,
        102,
        "a task is named by its pid here, and recorded by that in the image"
    );
    let plan = model.ignore("9").expect("a plan");
    assert!(plan.left_out.is_empty());
    assert_eq!(plan.unmatched.len(), 1);
}

#[test]
fn what_has_no_meaning_at_a_dump_is_refused() {
    let model = Model::default().task(201, &[(7, 1, "/a")]);
    assert!(model.refused("id=1").contains("no identifiers"));
    let items = parse_list(
        "CKPT_SUBSTITUTE",
        b"7=8",
        &Action::Substitute(crate::advice::Source::Descriptor(0)),
        1024,
    );
    let advice = Advice {
        items: items.expect("a list"),
        ..Advice::default()
    };
    let error = at_a_dump(&advice).expect_err("refused");
    assert_eq!(error.errno(), libc::ENOTSUP);
}

#[test]
fn a_shared_table_is_advised_as_a_whole() {
    let mut model = Model::default()
        .task(201, &[(7, 1, "/a")])
        .task(202, &[(7, 1, "/a")]);
    model.tasks[1].table = 0;
    let plan = model.ignore("7").expect("a plan");
    assert_eq!(hidden(&plan), [(201, vec![7]), (202, vec![7])]);
    assert_eq!(plan.left_out.len(), 1);
    assert!(
        model
            .refused("202:7")
            .contains("shared by the tasks 201, 202")
    );
}

#[test]
fn a_set_loses_what_nothing_holds_any_more() {
    let model = Model::default()
        .task(201, &[(7, 1, EVENT), (8, 2, EVENT), (9, 3, EPOLL)])
        .set(3, &[(7, 1), (8, 2)]);
    let plan = model.ignore("7").expect("a plan");
    assert_eq!(shown(&plan), ((201, 9), vec![(7, None), (8, Some(8))]));
    assert!(model.ignore("9").expect("a plan").sets.is_empty());
}

#[test]
fn a_copy_keeps_the_watch() {
    let model = Model::default()
        .task(201, &[(7, 1, EVENT), (8, 1, EVENT), (9, 3, EPOLL)])
        .set(3, &[(7, 1)]);
    let plan = |list| model.ignore(list).expect("a plan");
    assert!(plan("8").sets.is_empty());
    assert_eq!(shown(&plan("7")), ((201, 9), vec![(7, Some(8))]));
    assert_eq!(shown(&plan("7,8")), ((201, 9), vec![(7, None)]));
}

#[test]
fn two_watches_do_not_become_one() {
    let copies = [(7, 1, EVENT), (8, 1, EVENT), (10, 1, EVENT), (9, 3, EPOLL)];
    let model = Model::default()
        .task(201, &copies)
        .set(3, &[(7, 1), (8, 1)]);
    let plan = |list| model.ignore(list).expect("a plan");
    assert_eq!(shown(&plan("7")).1, [(7, Some(10)), (8, Some(8))]);
    assert_eq!(shown(&plan("8")).1, [(7, Some(7)), (8, Some(10))]);
    assert!(model.refused("7,10").contains("its copy 8 beside it"));
    assert!(model.refused("7-8").contains("its copy 10 beside it"));
    assert_eq!(shown(&plan("7,8,10")).1, [(7, None), (8, None)]);
}

#[test]
fn a_watch_outlives_its_number() {
    // Added as 7, which was then moved to 8 and taken by another file.
    let model = Model::default()
        .task(201, &[(7, 2, EVENT), (8, 1, EVENT), (9, 3, EPOLL)])
        .set(3, &[(7, 1)]);
    let plan = |list| model.ignore(list).expect("a plan");
    assert!(plan("7").sets.is_empty());
    assert_eq!(shown(&plan("8")).1, [(7, None)]);
}

#[test]
fn two_watches_by_one_number_are_told_apart() {
    let model = Model::default()
        .task(201, &[(7, 2, EVENT), (8, 1, EVENT), (9, 3, EPOLL)])
        .set(3, &[(7, 1), (7, 2)]);
    let plan = |list| model.ignore(list).expect("a plan");
    assert_eq!(shown(&plan("8")).1, [(7, None), (7, Some(7))]);
    assert_eq!(shown(&plan("7")).1, [(7, Some(7)), (7, None)]);
}

#[test]
fn a_watch_that_only_another_task_would_hold_is_refused() {
    let both = [(7, 1, EVENT), (9, 3, EPOLL)];
    let model = Model::default()
        .task(201, &both)
        .task(202, &both)
        .set(3, &[(7, 1)]);
    assert!(model.refused("root:7").contains("only task 202"));
    assert!(model.refused("root:9,202:7").contains("only task 201"));
    let lost = |list| shown(&model.ignore(list).expect("a plan"));
    assert_eq!(
        lost("7"),
        ((201, 9), vec![(7, None)]),
        "a set is dumped once, by the first task"
    );
    assert_eq!(lost("7,root:9"), ((202, 9), vec![(7, None)]));
}

#[test]
fn a_socket_is_gone_when_nobody_holds_it() {
    let model = Model::default()
        .task(201, &[(7, 1, "socket:[5]"), (8, 2, "socket:[6]")])
        .task(202, &[(9, 1, "socket:[5]")]);
    assert!(model.ignore("root:7").expect("a plan").sockets.is_empty());
    assert!(!model.ignore("7,9").expect("a plan").sockets.is_empty());
}

#[test]
fn a_task_loses_its_locks_of_a_file_with_any_descriptor_of_it() {
    let open = [(7, 1, "/a"), (8, 2, "/a"), (9, 3, "/b"), (10, 4, "/c")];
    let mut model = Model::default().task(201, &open).task(202, &open[1..]);
    let inode = |link: &str| link.bytes().map(u64::from).sum::<u64>();
    let lock = |(task, link)| {
        format!(
            "1: POSIX  ADVISORY  WRITE {task} fe:02:{} 0 EOF\n",
            inode(link)
        )
    };
    model.locks = [(201, "/a"), (201, "/b"), (202, "/a")].map(lock).concat();
    let unlocked = |list| Vec::from_iter(model.ignore(list).expect("a plan").unlocked);
    assert_eq!(unlocked("7"), [(201, 8)], "the other task's are its own");
    assert_eq!(unlocked("root:8"), [(201, 7)]);
    assert_eq!(unlocked("7,8"), []);
    assert_eq!(unlocked("9,10"), []);
    let warned = model.ignore("7").expect("a plan").warnings;
    assert!(warned[0].contains("by descriptor 8"), "{warned:?}");
}

#[test]
fn copies_are_found_however_many_are_asked_for() {
    let pairs: Vec<(i32, u32, &str)> = (0..200)
        .map(|number: i32| (number, number.unsigned_abs() / 2, EVENT))
        .collect();
    let watched = (0..200).step_by(2).map(|n: i32| (n, n.unsigned_abs() / 2));
    let watched: Vec<(i32, u32)> = watched.collect();
    let mut open = pairs;
    open.push((200, 1000, EPOLL));
    let model = Model::default().task(201, &open).set(1000, &watched);
    // Of 60 pairs one goes, of 20 both: the numbers of those are lost.
    let one = (0..120).step_by(2).map(|n| n.to_string());
    let list: Vec<String> = one.chain(["160-199".to_owned()]).collect();
    let plan = model.ignore(&list.join(",")).expect("a plan");
    let expected = (0..200).step_by(2).map(|number| {
        let shown = if number < 120 { number + 1 } else { number };
        (number, (number < 160).then_some(shown))
    });
    assert_eq!(shown(&plan).1, expected.collect::<Vec<_>>());
}

#[test]
fn a_slave_is_not_left_without_its_master() {
    let mut model = Model::default().task(
        201,
        &[
            (7, 1, "/dev/ptmx"),
            (8, 2, "/dev/pts/4"),
            (9, 1, "/dev/ptmx"),
            (10, 3, "/dev/tty"),
        ],
    );
    model.masters = [((201, 7), 4), ((201, 9), 4)].into();
    assert!(model.ignore("7").is_ok(), "a copy of it stays");
    assert!(model.refused("7,9").contains("task 201 descriptor 8 keeps"));
    assert!(model.ignore("7-9").is_ok());
    model.controlled = [(201, 4)].into();
    assert!(model.refused("7-9").contains("descriptor 10 keeps"));
    assert!(model.ignore("7-").is_ok());
}

#[test]
fn marks_are_for_their_task_and_its_whole_table() {
    let mark = |number, advice| Mark {
        number,
        word: marks::word(Some(5), advice),
        state: State::InForce,
    };
    let three = [(7, 1, "/a"), (8, 2, "/b"), (9, 3, "/c")];
    let mut model = Model::default()
        .task(201, &three)
        .task(202, &three)
        .task(203, &three);
    model.tasks[1].table = 0;
    model.tasks[1].marks = vec![
        mark(7, IGNORE),
        mark(8, PRESERVE),
        mark(9, PRESERVE | IGNORE),
    ];
    let nothing = Advice::default();
    let plan = plan(&model.tasks, &nothing, &model).expect("a plan");
    let expected = [(201, vec![7, 9]), (202, vec![7, 9]), (203, vec![])];
    assert_eq!(hidden(&plan), expected);
    let asks: Vec<(i32, i32)> = plan.asks.iter().map(|a| (a.task, a.number)).collect();
    assert_eq!(asks, [(101, 8), (101, 9)]);
    assert_eq!(plan.left_out.len(), 2);
    assert_eq!(
        record::read(&record::write(&plan.record(Some(7)))),
        Ok(plan.record(Some(7)))
    );
    // Together with advice, which may say the same.
    let plan = model.ignore("*:7,203:8").expect("a plan");
    let expected = [(201, vec![7, 9]), (202, vec![7, 9]), (203, vec![7, 8])];
    assert_eq!(hidden(&plan), expected);
}
