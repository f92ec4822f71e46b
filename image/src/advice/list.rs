//! The LIST grammar of the environment and the options.
//!
//! ```text
//! list   = item { "," item }
//! item   = [ ( pid | "root" | "*" ) ":" ] target [ "=" source ]
//! target = N | N "-" M | N "-" | "/" glob | "type=" kind | "id=" identifier
//! source = N | "/" path                          (SUBSTITUTE only)
//! ```
//!
//! A typo must never restart a program with the wrong files, so whatever cannot
//! be read is an error that quotes the item and names the column.

use super::glob::{Glob, PatternByte};
use super::{Action, Item, Kind, Source, Target, TaskSelector};
use crate::Error;

/// Reads one LIST.
///
/// * `variable`: the environment variable or option, for messages.
/// * `value`: its value; empty gives no items.
/// * `action`: what its items ask for; the source inside a
///   [`Action::Substitute`] is a stand-in, each item brings its own.
/// * `limit`: RLIMIT_NOFILE: numbers to preserve or substitute are below it.
///
/// # Errors
/// [`Error::Syntax`], with the item and the column.
pub fn parse_list(
    variable: &str,
    value: &[u8],
    action: &Action,
    limit: u64,
) -> Result<Vec<Item>, Error> {
    let mut parser = Parser::new(variable, value, action, limit);
    let mut items = Vec::new();
    if value.is_empty() {
        return Ok(items);
    }
    loop {
        items.push(parser.item()?);
        if parser.at == parser.tokens.len() {
            return Ok(items);
        }
        parser.at += 1;
    }
}

/// The kind of this name, if there is one.
pub fn parse_kind(name: &str) -> Option<Kind> {
    Kind::ALL.iter().copied().find(|kind| kind.name() == name)
}

/// A byte of the value after unescaping, with the column it came from.
#[derive(Clone, Copy)]
struct Token {
    byte: u8,
    /// It was escaped and separates nothing.
    literal: bool,
    /// From 1, in characters.
    column: usize,
    /// Where it began in the value, for quoting.
    raw: usize,
}

struct Parser<'a> {
    variable: &'a str,
    value: &'a [u8],
    action: &'a Action,
    limit: u64,
    tokens: Vec<Token>,
    at: usize,
    /// First token of the item that is being read.
    item: usize,
}

impl<'a> Parser<'a> {
    fn new(variable: &'a str, value: &'a [u8], action: &'a Action, limit: u64) -> Self {
        Parser {
            variable,
            value,
            action,
            limit,
            tokens: tokens(value),
            at: 0,
            item: 0,
        }
    }

    fn item(&mut self) -> Result<Item, Error> {
        self.item = self.at;
        self.skip_space();
        if self.at_separator() {
            return Err(self.error(self.at, "an empty item: a comma too many"));
        }
        let task = self.task()?;
        let target = self.target()?;
        let action = if self.substitutes() {
            Action::Substitute(self.source()?)
        } else {
            self.action.clone()
        };
        let end = self.at;
        self.skip_space();
        if !self.at_separator() {
            return Err(self.error(self.at, "expected a comma or the end"));
        }
        if matches!(self.action, Action::Preserve)
            && !matches!(target, Target::Number(_) | Target::Range(..))
        {
            return Err(self.error(
                self.first_of_item(),
                "only numbers and ranges can be preserved: a path, kind or identifier needs a \
                 source (CKPT_SUBSTITUTE)",
            ));
        }
        Ok(Item {
            action,
            task,
            target,
            variable: self.variable.to_owned(),
            text: self.quote(self.first_of_item(), end),
        })
    }

    fn substitutes(&self) -> bool {
        matches!(self.action, Action::Substitute(_))
    }

    /// `pid:`, `root:` or `*:`; whatever begins otherwise is a target.
    fn task(&mut self) -> Result<Option<TaskSelector>, Error> {
        let start = self.at;
        let word: Vec<u8> = self.tokens[start..]
            .iter()
            .take_while(|t| t.byte.is_ascii_alphanumeric() || t.byte == b'*' || t.byte == b'-')
            .map(|t| t.byte)
            .collect();
        if !self.is(start + word.len(), b':') {
            return Ok(None);
        }
        let task = match word.as_slice() {
            b"root" => TaskSelector::Root,
            b"*" => TaskSelector::Every,
            digits if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
                match decimal(digits).and_then(|pid| i32::try_from(pid).ok()) {
                    Some(pid) if pid > 0 => TaskSelector::Pid(pid),
                    _ => return Err(self.error(start, "no pid is this large or small")),
                }
            }
            _ => {
                return Err(self.error(start, "a task is a pid, \"root\" or \"*\""));
            }
        };
        self.at = start + word.len() + 1;
        Ok(Some(task))
    }

    fn target(&mut self) -> Result<Target, Error> {
        let start = self.at;
        if self.takes("type=") {
            let name = self.word();
            return parse_kind(&name).map(Target::Kind).ok_or_else(|| {
                let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                self.error(
                    start + "type=".len(),
                    format!("no kind \"{name}\": known are {}", known.join(" ")),
                )
            });
        }
        if self.takes("id=") {
            let name = self.word();
            let (digits, radix) = match name.strip_prefix("0x") {
                Some(hex) => (hex, 16),
                None => (name.as_str(), 10),
            };
            let id = match digits.chars().all(|c| c.is_digit(radix)) {
                true => u64::from_str_radix(digits, radix).ok(),
                false => None,
            };
            return id.map(Target::Id).ok_or_else(|| {
                self.error(
                    start + "id=".len(),
                    "an identifier is a number as `ckptadv inspect` prints it",
                )
            });
        }
        if self.is(start, b'/') {
            return self.glob();
        }
        if !self
            .tokens
            .get(start)
            .is_some_and(|t| t.byte.is_ascii_digit())
        {
            return Err(self.error(
                start,
                "expected a descriptor number, a range, /path, type=KIND or id=ID",
            ));
        }
        let from = self.number()?;
        if !self.is(self.at, b'-') {
            return Ok(Target::Number(from));
        }
        self.at += 1;
        let digits = self.at;
        if !self
            .tokens
            .get(digits)
            .is_some_and(|t| t.byte.is_ascii_digit())
        {
            return Ok(Target::Range(from, None));
        }
        let to = self.number()?;
        if to < from {
            return Err(self.error(digits, format!("the range {from}-{to} runs backwards")));
        }
        Ok(Target::Range(from, Some(to)))
    }

    fn number(&mut self) -> Result<i32, Error> {
        let start = self.at;
        let digits: Vec<u8> = self.tokens[start..]
            .iter()
            .map(|t| t.byte)
            .take_while(u8::is_ascii_digit)
            .collect();
        self.at += digits.len();
        let number = decimal(&digits).and_then(|number| i32::try_from(number).ok());
        let Some(number) = number else {
            return Err(self.error(start, "no descriptor number is this large"));
        };
        if !matches!(self.action, Action::Ignore) && number as u64 >= self.limit {
            return Err(self.error(
                start,
                format!(
                    "{number} is not below the limit of {} descriptors (ulimit -n)",
                    self.limit
                ),
            ));
        }
        Ok(number)
    }

    fn glob(&mut self) -> Result<Target, Error> {
        let start = self.at;
        let mut depth = 0usize;
        while let Some(&token) = self.tokens.get(self.at) {
            if !token.literal {
                match token.byte {
                    b'[' => {
                        if let Some(close) = self.class_end() {
                            self.at = close;
                        }
                    }
                    b'{' => depth += 1,
                    b'}' => depth = depth.saturating_sub(1),
                    b',' if depth == 0 => break,
                    b'=' if depth == 0 && self.begins_source() => break,
                    _ => {}
                }
            }
            self.at += 1;
        }
        let mut end = self.at;
        while end > start && self.is_space(end - 1) {
            end -= 1;
        }
        let pattern: Vec<PatternByte> = self.tokens[start..end]
            .iter()
            .map(|t| PatternByte {
                byte: t.byte,
                literal: t.literal,
            })
            .collect();
        Glob::new(&pattern)
            .map(Target::Path)
            .map_err(|e| self.error(start + e.at, e.reason))
    }

    /// The `]` of the class that begins here, if it comes before a comma.
    fn class_end(&self) -> Option<usize> {
        let mut at = self.at + 1;
        if self.is(at, b'!') || self.is(at, b'^') {
            at += 1;
        }
        let first = at;
        loop {
            let token = self.tokens.get(at)?;
            match token.byte {
                b']' if at > first => return Some(at),
                b',' if !token.literal => return None,
                _ => at += 1,
            }
        }
    }

    /// Whether the `=` at the current place stands between target and source.
    fn begins_source(&self) -> bool {
        self.substitutes()
            && self.is(self.at, b'=')
            && self
                .tokens
                .get(self.at + 1)
                .is_some_and(|t| t.byte.is_ascii_digit() || t.byte == b'/')
    }

    fn source(&mut self) -> Result<Source, Error> {
        if !self.begins_source() {
            return Err(self.error(
                self.at,
                "expected =SOURCE: a descriptor number or an absolute path",
            ));
        }
        self.at += 1;
        let start = self.at;
        if !self.is(start, b'/') {
            let number = self.number()?;
            return Ok(Source::Descriptor(number));
        }
        let mut path = Vec::new();
        while let Some(&token) = self.tokens.get(self.at) {
            if token.byte == b',' && !token.literal {
                break;
            }
            if self.begins_source() {
                let item = self.quote(self.first_of_item(), self.item_end());
                return Err(self.error(
                    self.at,
                    format!(
                        "two = that could begin the source: write \\= for the one that does not, \
                         for example \"{}\"",
                        escape_last_equals(&item)
                    ),
                ));
            }
            path.push(token.byte);
            self.at += 1;
        }
        let mut end = self.at;
        while end > start && self.is_space(end - 1) {
            end -= 1;
            path.pop();
        }
        if path.contains(&0) {
            return Err(self.error(start, "a path has no NUL in it"));
        }
        Ok(Source::Path(path.into()))
    }

    fn word(&mut self) -> String {
        let mut word = Vec::new();
        while let Some(&token) = self.tokens.get(self.at) {
            let ends = self.at_separator() || self.is_space(self.at) || self.begins_source();
            if ends {
                break;
            }
            word.push(token.byte);
            self.at += 1;
        }
        String::from_utf8_lossy(&word).into_owned()
    }

    fn takes(&mut self, prefix: &str) -> bool {
        let found = prefix
            .bytes()
            .enumerate()
            .all(|(i, byte)| self.is(self.at + i, byte));
        if found {
            self.at += prefix.len();
        }
        found
    }

    fn is(&self, at: usize, byte: u8) -> bool {
        self.tokens
            .get(at)
            .is_some_and(|t| t.byte == byte && !t.literal)
    }

    fn is_space(&self, at: usize) -> bool {
        self.tokens
            .get(at)
            .is_some_and(|t| t.byte.is_ascii_whitespace() && !t.literal)
    }

    fn skip_space(&mut self) {
        while self.is_space(self.at) {
            self.at += 1;
        }
    }

    fn at_separator(&self) -> bool {
        self.at == self.tokens.len() || self.is(self.at, b',')
    }

    fn first_of_item(&self) -> usize {
        (self.item..self.tokens.len())
            .find(|&at| !self.is_space(at))
            .unwrap_or(self.item)
    }

    fn item_end(&self) -> usize {
        (self.at..self.tokens.len())
            .find(|&at| self.is(at, b','))
            .unwrap_or(self.tokens.len())
    }

    fn quote(&self, from: usize, to: usize) -> String {
        let raw = |at: usize| self.tokens.get(at).map_or(self.value.len(), |t| t.raw);
        String::from_utf8_lossy(&self.value[raw(from)..raw(to).max(raw(from))]).into_owned()
    }

    fn error(&self, at: usize, reason: impl Into<String>) -> Error {
        let past_the_end = self.tokens.last().map_or(1, |t| t.column + 1);
        Error::Syntax {
            variable: self.variable.to_owned(),
            item: self
                .quote(self.first_of_item(), self.item_end())
                .trim_end()
                .to_owned(),
            column: self.tokens.get(at).map_or(past_the_end, |t| t.column),
            reason: reason.into(),
        }
    }
}

fn escape_last_equals(item: &str) -> String {
    match item.rfind('=') {
        Some(at) => format!("{}\\{}", &item[..at], &item[at..]),
        None => item.to_owned(),
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| {
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// Unescapes: `\,`, `\=` and `\\`; a backslash before anything else stands for
/// itself.
fn tokens(value: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(value.len());
    let mut column = 0;
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        let continuation = byte & 0xc0 == 0x80;
        if !continuation || column == 0 {
            column += 1;
        }
        let escaped = match value.get(at + 1) {
            Some(&next) if byte == b'\\' && b",=\\".contains(&next) => Some(next),
            _ => None,
        };
        tokens.push(Token {
            byte: escaped.unwrap_or(byte),
            literal: escaped.is_some(),
            column,
            raw: at,
        });
        if escaped.is_some() {
            column += 1;
            at += 1;
        }
        at += 1;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(value: &str) -> Result<Vec<Item>, Error> {
        parse_list("CKPT_IGNORE", value.as_bytes(), &Action::Ignore, 1024)
    }

    fn substitute(value: &str) -> Result<Vec<Item>, Error> {
        let stand_in = Action::Substitute(Source::Descriptor(0));
        parse_list("CKPT_SUBSTITUTE", value.as_bytes(), &stand_in, 1024)
    }

    fn column(result: Result<Vec<Item>, Error>) -> usize {
        match result {
            Err(Error::Syntax { column, .. }) => column,
            other => panic!("not a syntax error: {other:?}"),
        }
    }

    #[test]
    fn the_whole_grammar() {
        let items =
            ignore(" 0 , 3-5,7-, 12:9,root:1 ,*:2-4,/var/log/*.{log,txt},type=pipe,id=0x2a")
                .expect("every form is valid");
        let forms: Vec<_> = items.iter().map(|i| (i.task, i.target.clone())).collect();
        let glob = Glob::from_text("/var/log/*.{log,txt}").expect("a valid glob");
        assert_eq!(
            forms,
            [
                (None, Target::Number(0)),
                (None, Target::Range(3, Some(5))),
                (None, Target::Range(7, None)),
                (Some(TaskSelector::Pid(12)), Target::Number(9)),
                (Some(TaskSelector::Root), Target::Number(1)),
                (Some(TaskSelector::Every), Target::Range(2, Some(4))),
                (None, Target::Path(glob)),
                (None, Target::Kind(Kind::Pipe)),
                (None, Target::Id(42)),
            ]
        );
        assert_eq!(items[0].text, "0");
        assert_eq!(items[4].to_string(), "CKPT_IGNORE=root:1");
        assert_eq!(ignore(""), Ok(vec![]));
    }

    #[test]
    fn escapes_and_sources() {
        let items =
            substitute("1=2,/a\\=1=/b\\,c, type=tty=0 ,9:3=/x y ").expect("every form is valid");
        let source = |i: usize| match &items[i].action {
            Action::Substitute(source) => source.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(source(0), Source::Descriptor(2));
        assert_eq!(source(1), Source::Path(b"/b,c"[..].into()));
        assert_eq!(source(2), Source::Descriptor(0));
        assert_eq!(source(3), Source::Path(b"/x y"[..].into()));
        let Target::Path(glob) = &items[1].target else {
            panic!("{:?}", items[1].target)
        };
        assert!(glob.matches(b"/a=1"));
        assert_eq!(items[2].target, Target::Kind(Kind::Tty));
    }

    #[test]
    fn mistakes_name_their_column() {
        assert_eq!(column(ignore("1,,2")), 3);
        assert_eq!(column(ignore(",")), 1);
        assert_eq!(column(ignore("1,")), 3);
        assert_eq!(column(ignore(" ")), 2);
        assert_eq!(column(ignore("1,x")), 3);
        assert_eq!(column(ignore("1 2")), 3);
        assert_eq!(column(ignore("5-3")), 3);
        assert_eq!(column(ignore("-1")), 1);
        assert_eq!(column(ignore("99999999999")), 1);
        assert_eq!(column(ignore("1,type=foo")), 8);
        for id in [
            "id=q",
            "id=",
            "id=0x",
            "id=+1",
            "id=0x+1",
            "id=99999999999999999999",
        ] {
            assert_eq!(column(ignore(id)), 4, "{id}");
        }
        assert_eq!(column(ignore("rot:1")), 1);
        assert_eq!(column(ignore("0:1")), 1);
        assert_eq!(column(ignore("é,/a{b")), 1);
        assert_eq!(column(ignore("3,/é[b")), 5);
        assert_eq!(column(ignore("1=2")), 2);
        assert_eq!(column(substitute("1")), 2);
        assert_eq!(column(substitute("/a=1=/b")), 5);
        assert_eq!(column(substitute("1=relative")), 2);
        let preserve = |v: &str| parse_list("CKPT_PRESERVE", v.as_bytes(), &Action::Preserve, 64);
        assert_eq!(column(preserve("1,64")), 3);
        assert_eq!(column(preserve("/tmp/*")), 1);
        assert!(preserve("0-").is_ok());
    }

    #[test]
    fn a_mistake_quotes_its_item() {
        let error = ignore("0, 1x ,2").expect_err("1x is no number");
        assert_eq!(
            error.to_string(),
            "CKPT_IGNORE: \"1x\": column 5: expected a comma or the end"
        );
    }

    #[test]
    fn braces_and_classes_keep_their_commas() {
        assert_eq!(ignore("/{a,b},3").map(|i| i.len()), Ok(2));
        assert_eq!(ignore("/[{],3").map(|i| i.len()), Ok(2));
        assert_eq!(ignore("/[a\\,b],3").map(|i| i.len()), Ok(2));
        assert!(ignore("/[a,b]").is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(value: Vec<u8>) {
            let stand_in = Action::Substitute(Source::Descriptor(0));
            for action in [Action::Ignore, Action::Preserve, stand_in] {
                let _ = parse_list("V", &value, &action, 1024);
            }
        }

        #[test]
        fn near_misses_do_not_panic(value in "[0-9,=:/*{}\\[\\]\\\\ typeidroot-]{0,30}") {
            let stand_in = Action::Substitute(Source::Descriptor(0));
            for action in [Action::Ignore, Action::Preserve, stand_in] {
                if let Err(Error::Syntax { column, .. }) =
                    parse_list("V", value.as_bytes(), &action, 1024)
                {
                    assert!(column >= 1 && column <= value.len() + 1);
                }
            }
        }
    }
}
