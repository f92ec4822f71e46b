#[path = "criu_files.rs"]
#[allow(dead_code)]
mod criu_files;

use ckpt_image::advice::{Action, Advice, Kind, Strictness, parse_list};
use ckpt_image::caller::{Access, Caller, CallerFile, NoPaths};
use ckpt_image::criu::{Image, Naming, rewrite};

/// 0 to 9, each open for both; 4 can be watched, 5 and 6 are one description.
fn caller() -> Caller {
    const O_RDWR: i32 = 2;
    let file = |number: i32| CallerFile {
        kind: if number == 4 { Kind::Fifo } else { Kind::Reg },
        access: Access::of_flags(O_RDWR),
        flags: O_RDWR,
        f_mode: 0x1f,
        close_on_exec: number == 7,
        description: if number == 6 { 5 } else { number },
        name: Vec::new(),
        link: format!("/caller/{number}"),
        pollable: number == 4,
        not_by_name: None,
    };
    Caller {
        files: (0..10).map(|number| (number, file(number))).collect(),
        ..Caller::default()
    }
}

/// The target.
pub fn run(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == b'\n');
    let (Some(ignore), Some(preserve), Some(rest)) = (parts.next(), parts.next(), parts.next())
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
    let files = criu_files::files(rest);
    let Ok(image) = Image::read(&files) else {
        return;
    };
    let _ = image.listing(&files);
    let _ = image.needs(&files);
    let advice = Advice {
        items,
        strictness: Strictness::Warn,
    };
    let paths = Box::new(NoPaths);
    let Ok(done) = rewrite(&image, &files, &advice, caller(), paths, Naming::Inherited) else {
        return;
    };
    if done.changes.is_empty() {
        assert!(done.files.is_empty(), "changed without advice");
    }
    // What was edited is an image, in which the same advice can be met again.
    let mut new = files.clone();
    new.extend(done.files);
    let image = Image::read(&new).expect("an image stays one");
    for change in &done.changes {
        let mut tasks = image.tasks.iter();
        let task = tasks
            .find(|task| task.pid == change.task)
            .expect("the task");
        let table = &image.tables[&task.table.expect("it had descriptors")];
        let open = table.slot(change.number).is_some();
        let dropped = change.fate == ckpt_image::plan::Fate::Drop;
        assert!(open != dropped, "{change}");
    }
}
