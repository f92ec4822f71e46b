//! What the targets share that edit images: how an input has its advice, and what the caller
//! of a restart has.

use ckpt_image::advice::{Action, Item, Kind, parse_list};
use ckpt_image::caller::{Access, Caller, CallerFile};

/// On every machine whose images are edited.
const O_RDWR: i32 = 2;

/// 0 to 9, each open for both; 4 is a fifo and can be watched, 5 and 6 are one description.
pub fn caller() -> Caller {
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
        not_given: None,
    };
    Caller {
        files: (0..10).map(|number| (number, file(number))).collect(),
        ..Caller::default()
    }
}

/// The items of a line CKPT_IGNORE and a line CKPT_PRESERVE, and what follows them; `None`
/// where there are no such lines.
pub fn advice(input: &[u8]) -> Option<(Vec<Item>, &[u8])> {
    let mut parts = input.splitn(3, |&byte| byte == b'\n');
    let (ignore, preserve, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let mut items = parse_list("CKPT_PRESERVE", preserve, &Action::Preserve, 1024).ok()?;
    items.extend(parse_list("CKPT_IGNORE", ignore, &Action::Ignore, 1024).ok()?);
    Some((items, rest))
}
