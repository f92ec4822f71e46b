#[path = "../../image/tests/generator/check.rs"]
#[allow(dead_code)]
mod check;

use check::{FileBody, View, check};
use ckpt_image::advice::{Action, Advice, Item, Kind, Strictness, parse_list};
use ckpt_image::caller::{Access, Caller, CallerFile};
use ckpt_image::linux_cr::rewrite::Rewriter;
use ckpt_image::plan::Planner;

/// On every machine whose images are edited.
const O_RDWR: i32 = 2;

/// 0 to 9, each open for both; 4 is a fifo, 5 and 6 are one description.
fn caller() -> Caller {
    let file = |number: i32| CallerFile {
        kind: if number == 4 { Kind::Fifo } else { Kind::Reg },
        access: Access::of_flags(O_RDWR),
        flags: O_RDWR,
        f_mode: if number == 4 { 3 } else { 0x1f },
        close_on_exec: number == 7,
        description: if number == 6 { 5 } else { number },
        name: format!("/proc/self/fd/{number}").into_bytes(),
        link: format!("/caller/{number}"),
        pollable: number == 4,
        not_by_name: None,
    };
    Caller {
        files: (0..10).map(|number| (number, file(number))).collect(),
        ..Caller::default()
    }
}

fn rewrite(image: &[u8], items: &[Item], piece: usize) -> (Vec<u8>, Option<String>) {
    let advice = Advice {
        items: items.to_vec(),
        strictness: Strictness::Warn,
    };
    let mut out = Vec::new();
    let planner = match Planner::new(&advice, caller(), false) {
        Ok(planner) => planner,
        Err(error) => return (out, Some(error.to_string())),
    };
    let mut rewriter = Rewriter::new(planner, Box::new(|_| Some(17)));
    for piece in image.chunks(piece.max(1)) {
        let result = rewriter.feed(piece);
        out.append(rewriter.output());
        if let Err(error) = result {
            return (out, Some(error.to_string()));
        }
    }
    let error = rewriter.finish().err();
    (out, error.map(|error| error.to_string()))
}

/// The target.
pub fn run(input: &[u8]) {
    let Some((&piece, rest)) = input.split_first() else {
        return;
    };
    let mut parts = rest.splitn(3, |&byte| byte == b'\n');
    let (Some(ignore), Some(preserve), Some(image)) = (parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let (Ok(mut items), Ok(ignored)) = (
        parse_list("CKPT_PRESERVE", preserve, &Action::Preserve, 1024),
        parse_list("CKPT_IGNORE", ignore, &Action::Ignore, 1024),
    ) else {
        return;
    };
    items.extend(ignored);
    let (out, error) = rewrite(image, &items, image.len());
    if piece > 0 {
        assert!((out.clone(), error.clone()) == rewrite(image, &items, piece.into()));
    }
    if error.is_some() {
        return;
    }
    if items.is_empty() {
        assert!(out == image, "changed without advice");
    }
    let Ok(before) = check(image) else {
        return;
    };
    let after = check(&out).expect("an image stays one");
    // A task that shared a table may have one of its own now.
    let pids = |view: &View| -> Vec<i32> { view.tasks.iter().map(|task| task.pid).collect() };
    assert!(pids(&after) == pids(&before) && after.mapped == before.mapped);
    for (id, file) in &before.files {
        // Contents come with another end.
        let same = |left: &FileBody| {
            FileBody {
                data: file.data.clone(),
                ..left.clone()
            } == *file
        };
        let given = *id >= 0x7f00_0000;
        let same = after.files.get(id).is_none_or(|left| given || same(left));
        assert!(same, "file {id} is another");
    }
    for (set, items) in &after.watches {
        assert!(items.len() <= before.watches[set].len());
    }
    for (id, sock) in &after.socks {
        let had = &before.socks[id];
        assert!(sock.file == had.file && sock.peer == had.peer);
    }
}
