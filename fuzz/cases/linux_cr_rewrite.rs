#[path = "../../image/tests/generator/check.rs"]
#[allow(dead_code)]
mod check;

use super::advised::{self, caller};
use check::{FileBody, View, check};
use ckpt_image::advice::{Advice, Item, Strictness};
use ckpt_image::linux_cr::rewrite::Rewriter;
use ckpt_image::plan::Planner;

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
    let Some((items, image)) = advised::advice(rest) else {
        return;
    };
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
