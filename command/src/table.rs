//! Tables for people: columns as wide as what is in them, and lines that fit the
//! terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// What a line is about, for colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Nothing special.
    #[default]
    Plain,
    /// The names of the columns.
    Heading,
    /// Something that was not there.
    Added,
    /// Something that is not there any more.
    Removed,
    /// Something that is not as it was.
    Changed,
}

impl Style {
    /// As a terminal is told (ECMA-48, SGR).
    fn code(self) -> Option<&'static str> {
        match self {
            Style::Plain => None,
            Style::Heading => Some("1"),
            Style::Added => Some("32"),
            Style::Removed => Some("31"),
            Style::Changed => Some("33"),
        }
    }
}

/// A line of a table.
#[derive(Default)]
pub struct Row {
    /// One for each column; what does not fit goes on below, at white space.
    pub cells: Vec<String>,
    /// The last column. Nothing cuts it.
    pub name: String,
    /// What else there is to know, in words.
    pub notes: Vec<String>,
    /// Its colour.
    pub style: Style,
}

impl Row {
    /// The names of the columns.
    pub fn heading(cells: &[&str], name: &str) -> Self {
        Row {
            cells: cells.iter().map(|&cell| cell.to_owned()).collect(),
            name: name.to_owned(),
            notes: Vec::new(),
            style: Style::Heading,
        }
    }
}

/// A table that is asked for its rows twice, so that it never holds them.
pub struct Table {
    widths: Vec<usize>,
    /// Columns of the terminal; no end where there is none.
    room: usize,
    colours: bool,
}

/// A cell is no wider, where there is an end.
const WIDEST: usize = 24;

/// Whether lines may have colours (no-color.org).
fn colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

/// The columns that lines may take.
pub fn room() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    if let Some(columns) = columns {
        return columns;
    }
    if !std::io::stdout().is_terminal() {
        return usize::MAX;
    }
    // SAFETY: winsize is plain data, and TIOCGWINSZ fills one.
    let columns = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        match libc::ioctl(1, libc::TIOCGWINSZ, &raw mut size) {
            0 => usize::from(size.ws_col),
            _ => 0,
        }
    };
    match columns {
        0 => 80,
        columns => columns,
    }
}

impl Table {
    /// Writes a table to standard output, which `out` is.
    ///
    /// # Errors
    /// What writing gives.
    pub fn write<I: Iterator<Item = Row>>(
        out: &mut dyn Write,
        rows: impl Fn() -> I,
    ) -> io::Result<()> {
        let table = Table::new(room(), colours(), rows());
        for row in rows() {
            out.write_all(table.line(&row).as_bytes())?;
        }
        Ok(())
    }

    /// Measures the rows.
    fn new(room: usize, colours: bool, rows: impl Iterator<Item = Row>) -> Self {
        let mut table = Table {
            widths: Vec::new(),
            room,
            colours,
        };
        let most = table.most();
        for row in rows {
            table
                .widths
                .resize(row.cells.len().max(table.widths.len()), 0);
            for (width, cell) in table.widths.iter_mut().zip(&row.cells) {
                let widest = wrap(cell, most).into_iter().map(length).max();
                *width = widest.unwrap_or(0).max(*width);
            }
        }
        table
    }

    /// The widest that a cell may be.
    fn most(&self) -> usize {
        match self.room {
            usize::MAX => usize::MAX,
            _ => WIDEST,
        }
    }

    /// A row as text.
    fn line(&self, row: &Row) -> String {
        let text = self.plain_line(row);
        let Some(code) = row.style.code().filter(|_| self.colours) else {
            return text;
        };
        let lines = text.lines();
        lines
            .map(|line| format!("\x1b[{code}m{line}\x1b[0m\n"))
            .collect()
    }

    fn plain_line(&self, row: &Row) -> String {
        let cells: Vec<Vec<&str>> = row.cells.iter().map(|c| wrap(c, self.most())).collect();
        let mut text = String::new();
        let notes = row.notes.join("; ");
        let mut last = row.name.clone();
        let before: usize = self.widths.iter().map(|width| width + 2).sum();
        let whole = match (last.is_empty(), notes.is_empty()) {
            (_, true) => last.clone(),
            (true, false) => notes.clone(),
            (false, false) => format!("{last} ({notes})"),
        };
        let mut below = None;
        if before.saturating_add(length(&whole)) <= self.room {
            last = whole;
        } else {
            below = Some(notes);
        }
        // A name that fits no line of the last column has one of its own.
        let alone = before.saturating_add(length(&last)) > self.room;
        let height = cells.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for line in 0..height {
            let mut columns = String::new();
            for (cell, width) in cells.iter().zip(&self.widths) {
                let _ = write!(
                    columns,
                    "{:<width$}  ",
                    cell.get(line).copied().unwrap_or("")
                );
            }
            if line == 0 && !alone {
                columns.push_str(&last);
            }
            text.push_str(columns.trim_end());
            text.push('\n');
        }
        let indent = self.widths.first().map_or(0, |width| width + 2);
        if alone {
            let _ = writeln!(text, "{:indent$}{last}", "");
        }
        let room = self.room.saturating_sub(indent);
        for line in below.iter().flat_map(|notes| wrap(notes, room)) {
            let _ = writeln!(text, "{:indent$}{line}", "");
        }
        text
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Lines of at most so many characters, cut at spaces; longer words stay whole.
pub fn wrap(text: &str, most: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let (mut start, mut end, mut wide) = (0, 0, 0);
    for word in text.split(' ') {
        let next = if end == start { end } else { end + 1 };
        let width = length(word);
        if end > start && wide + 1 + width > most {
            lines.push(&text[start..end]);
            (start, end, wide) = (next, next + word.len(), width);
        } else {
            wide += width + usize::from(end > start);
            end = next + word.len();
        }
    }
    if end > start {
        lines.push(&text[start..end]);
    }
    lines
}

/// Text of an image, without what a terminal would act on.
pub fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_spaces() {
        assert_eq!(wrap("", 5), [""; 0]);
        assert_eq!(wrap("one", 5), ["one"]);
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(
            wrap("a much-too-long word", 6),
            ["a", "much-too-long", "word"]
        );
    }

    #[test]
    fn what_does_not_fit_goes_below() {
        let row = Row {
            cells: vec!["1".to_owned(), "reg".to_owned()],
            name: "/a/path".to_owned(),
            notes: vec!["mapped by 7".to_owned()],
            style: Style::Added,
        };
        let table = |room| {
            Table::new(
                room,
                false,
                [Row {
                    cells: row.cells.clone(),
                    ..Row::default()
                }]
                .into_iter(),
            )
        };
        assert_eq!(table(80).line(&row), "1  reg  /a/path (mapped by 7)\n");
        assert_eq!(table(20).line(&row), "1  reg  /a/path\n   mapped by 7\n");
        assert_eq!(
            table(10).line(&row),
            "1  reg\n   /a/path\n   mapped\n   by 7\n"
        );
    }
}
