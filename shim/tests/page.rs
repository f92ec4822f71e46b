//! The man page and the crate say the same.

use cradvise::{CR_ADV_IGNORE, CR_ADV_NORMAL, CR_ADV_PRESERVE, FD_CR_PRESERVE};

const PAGE: &str = include_str!("../../man/cradvise.2");

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
