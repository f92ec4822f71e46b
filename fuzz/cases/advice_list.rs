use ckpt_image::advice::{Action, Source, Target, parse_list};

/// The target.
pub fn run(input: &[u8]) {
    let Some((&variable, list)) = input.split_first() else {
        return;
    };
    let action = match variable % 3 {
        0 => Action::Ignore,
        1 => Action::Preserve,
        _ => Action::Substitute(Source::Descriptor(0)),
    };
    let items = match parse_list("CKPT_LIST", list, &action, 1024) {
        Ok(items) => items,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(items.is_empty(), list.is_empty());
    for item in items {
        if let Target::Path(glob) = &item.target {
            glob.matches(b"/var/log/program/a.log");
            glob.matches(list);
        }
        // A text with bytes that are none in UTF-8 is quoted with stand-ins.
        if item.text.contains('\u{fffd}') {
            continue;
        }
        let again = parse_list("CKPT_LIST", item.text.as_bytes(), &action, 1024);
        assert_eq!(again, Ok(vec![item]));
    }
}
