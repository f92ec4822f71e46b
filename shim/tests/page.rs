//! The man page and the crate say the same.

use cradvise::{CR_ADV_IGNORE, CR_ADV_NORMAL, CR_ADV_PRESERVE, FD_CR_PRESERVE};

const PAGE: &str = include_str!("../../man/cradvise.2");

#[test]
fn the_example_is_the_one_that_compiles() {
    let (_, examples) = PAGE.split_once(".SH EXAMPLES\n").unwrap();
    let (_, example) = examples.split_once(".EX\n").unwrap();
    let (example, _) = example.split_once(".EE\n").unwrap();
    let text = example.replace("\\-", "-").replace("\\e", "\\");
    assert_eq!(text, include_str!("../examples/advise.rs"));
}

#[test]
fn the_flags_have_the_values_of_the_page() {
    for (name, value) in [
        ("CR_ADV_NORMAL", CR_ADV_NORMAL),
        ("CR_ADV_PRESERVE", CR_ADV_PRESERVE),
        ("CR_ADV_IGNORE", CR_ADV_IGNORE),
    ] {
        assert!(PAGE.contains(&format!("\n.BR {name} \" ({value})\"\n")));
    }
    assert!(PAGE.contains(&format!("\n.B FD_CR_PRESERVE\n({FD_CR_PRESERVE}),")));
}
