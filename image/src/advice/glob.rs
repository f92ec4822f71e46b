//! Path patterns: `*` and `?` within a component, `**` across, `[a-z]`, `{a,b}`.
//!
//! They mean what they mean to the globset crate with literal separators and
//! without backslash escapes; globset itself would more than double the size of
//! the preload library. Matching is a walk over the states of a small automaton,
//! so its cost is bounded by pattern times path, whatever the pattern.

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    states: Vec<State>,
    text: String,
}

/// One state: what it takes to leave it, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// This byte, then the next state.
    Byte(u8),
    /// Any byte but a separator.
    Any,
    /// Any byte at all.
    Anything,
    /// A byte of the class (never a separator).
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
    /// Both, without a byte.
    Split(usize, usize),
    /// There, without a byte.
    Jump(usize),
    /// The pattern has matched if the path is at its end.
    End,
}

/// One byte of a pattern as written; `literal` bytes were escaped in the LIST
/// and never act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatternByte {
    /// The byte.
    pub byte: u8,
    /// Stands for itself.
    pub literal: bool,
}

/// A pattern that cannot be read: where, counted in bytes from 0, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobError {
    /// Index into the pattern.
    pub at: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// An unclosed `[` or `{`, a stray `}`, a class range upside down.
    pub fn new(pattern: &[PatternByte]) -> Result<Self, GlobError> {
        let mut compiler = Compiler {
            pattern,
            at: 0,
            states: Vec::new(),
        };
        compiler.run()?;
        let text: Vec<u8> = pattern.iter().map(|b| b.byte).collect();
        Ok(Glob {
            states: compiler.states,
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    /// Compiles a pattern in which nothing was escaped.
    ///
    /// # Errors
    /// As for [`Glob::new`].
    pub fn from_text(pattern: &str) -> Result<Self, GlobError> {
        let bytes: Vec<_> = pattern
            .bytes()
            .map(|byte| PatternByte {
                byte,
                literal: false,
            })
            .collect();
        Glob::new(&bytes)
    }

    /// Whether the whole of `path` matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut now = StateSet::new(self.states.len());
        let mut next = StateSet::new(self.states.len());
        self.enter(0, &mut now);
        for &byte in path {
            next.clear();
            for &state in &now.list {
                let passes = match &self.states[state] {
                    State::Byte(b) => *b == byte,
                    State::Any => byte != b'/',
                    State::Anything => true,
                    State::Class { negated, ranges } => {
                        byte != b'/'
                            && ranges.iter().any(|&(a, b)| (a..=b).contains(&byte)) != *negated
                    }
                    State::Split(..) | State::Jump(_) | State::End => false,
                };
                if passes {
                    self.enter(state + 1, &mut next);
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        now.list
            .iter()
            .any(|&state| self.states[state] == State::End)
    }

    fn enter(&self, state: usize, set: &mut StateSet) {
        let mut pending = vec![state];
        while let Some(state) = pending.pop() {
            if !set.insert(state) {
                continue;
            }
            match self.states[state] {
                State::Split(a, b) => pending.extend([a, b]),
                State::Jump(to) => pending.push(to),
                _ => {}
            }
        }
    }
}

impl std::fmt::Display for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

struct StateSet {
    list: Vec<usize>,
    member: Vec<bool>,
}

impl StateSet {
    fn new(states: usize) -> Self {
        StateSet {
            list: Vec::new(),
            member: vec![false; states],
        }
    }

    fn insert(&mut self, state: usize) -> bool {
        let new = !std::mem::replace(&mut self.member[state], true);
        if new {
            self.list.push(state);
        }
        new
    }

    fn clear(&mut self) {
        for state in self.list.drain(..) {
            self.member[state] = false;
        }
    }
}

struct Compiler<'a> {
    pattern: &'a [PatternByte],
    at: usize,
    states: Vec<State>,
}

/// An open brace: where it stood, the splits to fill and the jumps to patch.
struct Brace {
    at: usize,
    split: usize,
    jumps: Vec<usize>,
}

impl Compiler<'_> {
    fn run(&mut self) -> Result<(), GlobError> {
        let mut braces: Vec<Brace> = Vec::new();
        while let Some(&PatternByte { byte, literal }) = self.pattern.get(self.at) {
            if literal {
                self.states.push(State::Byte(byte));
                self.at += 1;
                continue;
            }
            match byte {
                b'?' => self.states.push(State::Any),
                b'*' => {
                    self.star();
                    continue;
                }
                b'[' => {
                    self.class()?;
                    continue;
                }
                b'{' => {
                    self.states.push(State::Split(0, 0));
                    braces.push(Brace {
                        at: self.at,
                        split: self.states.len() - 1,
                        jumps: Vec::new(),
                    });
                }
                b',' if !braces.is_empty() => {
                    let brace = braces.last_mut().expect("just looked");
                    brace.jumps.push(self.states.len());
                    self.states.push(State::Jump(0));
                    let alternative = self.states.len();
                    self.states[brace.split] = State::Split(brace.split + 1, alternative);
                    brace.split = alternative;
                    self.states.push(State::Split(0, 0));
                }
                b'}' => {
                    let Some(brace) = braces.pop() else {
                        return Err(self.error(self.at, "a } without its {"));
                    };
                    self.states[brace.split] = State::Jump(brace.split + 1);
                    let end = self.states.len();
                    for jump in brace.jumps {
                        self.states[jump] = State::Jump(end);
                    }
                }
                byte => self.states.push(State::Byte(byte)),
            }
            self.at += 1;
        }
        if let Some(brace) = braces.first() {
            return Err(self.error(brace.at, "a { that is not closed"));
        }
        self.states.push(State::End);
        Ok(())
    }

    fn error(&self, at: usize, reason: &'static str) -> GlobError {
        GlobError { at, reason }
    }

    fn is(&self, at: usize, byte: u8) -> bool {
        self.pattern
            .get(at)
            .is_some_and(|b| b.byte == byte && !b.literal)
    }

    /// `*`, or a `**` that is a whole component: then zero or more components.
    fn star(&mut self) {
        let whole_component = self.is(self.at + 1, b'*')
            && (self.at == 0 || self.is(self.at - 1, b'/'))
            && (self.at + 2 == self.pattern.len() || self.is(self.at + 2, b'/'));
        if !whole_component {
            self.repeat(State::Any);
            self.at += 1;
            return;
        }
        self.at += 2;
        if self.at == self.pattern.len() {
            self.repeat(State::Anything);
            return;
        }
        // "**/": nothing, or anything that ends in a separator.
        self.at += 1;
        let split = self.states.len();
        self.states.push(State::Split(0, 0));
        self.repeat(State::Anything);
        self.states.push(State::Byte(b'/'));
        self.states[split] = State::Split(split + 1, self.states.len());
    }

    fn repeat(&mut self, what: State) {
        let split = self.states.len();
        self.states.push(State::Split(split + 1, split + 3));
        self.states.push(what);
        self.states.push(State::Jump(split));
    }

    fn class(&mut self) -> Result<(), GlobError> {
        let open = self.at;
        self.at += 1;
        let negated = self.is(self.at, b'!') || self.is(self.at, b'^');
        if negated {
            self.at += 1;
        }
        let mut ranges = Vec::new();
        let first = self.at;
        loop {
            let Some(&PatternByte { byte, .. }) = self.pattern.get(self.at) else {
                return Err(self.error(open, "a [ that is not closed"));
            };
            if byte == b']' && self.at > first {
                self.at += 1;
                break;
            }
            let to = match self.pattern.get(self.at + 2) {
                Some(to) if self.is(self.at + 1, b'-') && to.byte != b']' => to.byte,
                _ => byte,
            };
            if to < byte {
                return Err(self.error(self.at, "a range that runs backwards"));
            }
            self.at += if to == byte && !self.is_range() { 1 } else { 3 };
            ranges.push((byte, to));
        }
        self.states.push(State::Class { negated, ranges });
        Ok(())
    }

    /// Whether `a-b` (not `a-]`) stands at the current place of a class.
    fn is_range(&self) -> bool {
        self.is(self.at + 1, b'-')
            && self
                .pattern
                .get(self.at + 2)
                .is_some_and(|to| to.byte != b']')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_globset() {
        let table: &[(&str, &str, bool)] = &[
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/bc", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/*", "/a/", true),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", false),
            ("/a/**/b", "/a/b", true),
            ("/a/**/b", "/a/x/y/b", true),
            ("/a/**/b", "/ab", false),
            ("/a/**/b", "/a/xb", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a", false),
            ("/**/c", "/a/b/c", true),
            ("/**/c", "/c", true),
            ("/**", "/anything/at/all", true),
            ("/a**b", "/axxb", true),
            ("/a**b", "/ax/xb", false),
            ("/[ab]", "/a", true),
            ("/[ab]", "/c", false),
            ("/[!ab]", "/c", true),
            ("/[^ab]", "/a", false),
            ("/[a-c]x", "/bx", true),
            ("/[]]", "/]", true),
            ("/[a-]", "/-", true),
            ("/[*]", "/*", true),
            ("/[*]", "/x", false),
            ("/a[!x]b", "/a/b", false),
            ("/{a,b}", "/a", true),
            ("/{a,b}", "/b", true),
            ("/{a,b}", "/c", false),
            ("/{a,b/{c,d}}/e", "/b/d/e", true),
            ("/{a,b/{c,d}}/e", "/b/e", false),
            ("/{,x}y", "/y", true),
            ("/x{a*,?}z", "/xaaaz", true),
            ("/x{}z", "/xz", true),
            ("/a,b", "/a,b", true),
            ("/\\a", "/\\a", true),
        ];
        for (pattern, path, expected) in table {
            let glob = Glob::from_text(pattern).expect(pattern);
            assert_eq!(
                glob.matches(path.as_bytes()),
                *expected,
                "{pattern} on {path}"
            );
        }
    }

    #[test]
    fn mistakes_are_told_by_their_place() {
        for (pattern, at) in [("/a[b", 2), ("/{a", 1), ("/a}", 2), ("/[b-a]", 2)] {
            assert_eq!(
                Glob::from_text(pattern).map_err(|e| e.at),
                Err(at),
                "{pattern}"
            );
        }
    }

    #[test]
    fn a_costly_pattern_is_not_costly() {
        let pattern = format!("/{}b", "*a".repeat(200));
        let path = format!("/{}", "a".repeat(2000));
        let glob = Glob::from_text(&pattern).expect("a valid pattern");
        assert!(!glob.matches(path.as_bytes()));
    }
}
