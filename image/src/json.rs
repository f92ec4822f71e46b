//! JSON, as far as this project writes it: what is written goes out at once, and
//! nothing is held or parsed.

use std::fmt::{self, Write};

/// What can be written as JSON.
pub trait Json {
    /// Writes it.
    ///
    /// # Errors
    /// The writer's.
    fn json(&self, out: &mut dyn Write) -> fmt::Result;
}

/// An object that is being written.
pub struct Object<'a> {
    out: &'a mut dyn Write,
    separator: &'static str,
}

impl<'a> Object<'a> {
    /// Begins one.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Object {
            out,
            separator: "{",
        }
    }

    /// Adds a field.
    ///
    /// # Errors
    /// The writer's.
    pub fn field(mut self, name: &str, value: &(impl Json + ?Sized)) -> Result<Self, fmt::Error> {
        self.out.write_str(self.separator)?;
        name.json(self.out)?;
        self.out.write_char(':')?;
        value.json(self.out)?;
        self.separator = ",";
        Ok(self)
    }

    /// Ends it. It has at least one field.
    ///
    /// # Errors
    /// The writer's.
    pub fn end(self) -> fmt::Result {
        self.out.write_char('}')
    }
}

/// An array of what an iterator gives.
pub struct Array<I>(pub I);

/// As [`Array`], with a line for each element.
pub struct Lines<I>(pub I);

impl<I: Iterator<Item: Json> + Clone> Json for Array<I> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        array(out, self.0.clone(), "", "")
    }
}

impl<I: Iterator<Item: Json> + Clone> Json for Lines<I> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        array(out, self.0.clone(), "\n  ", "\n")
    }
}

fn array(
    out: &mut dyn Write,
    elements: impl Iterator<Item: Json>,
    before: &str,
    after: &str,
) -> fmt::Result {
    let mut separator = "[";
    for element in elements {
        out.write_str(separator)?;
        out.write_str(before)?;
        element.json(out)?;
        separator = ",";
    }
    match separator {
        "[" => out.write_str("[]"),
        _ => write!(out, "{after}]"),
    }
}

impl<T: Json + ?Sized> Json for &T {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        (**self).json(out)
    }
}

impl<T: Json> Json for Option<T> {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        match self {
            Some(value) => value.json(out),
            None => out.write_str("null"),
        }
    }
}

impl<T: Json> Json for [T] {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        Array(self.iter()).json(out)
    }
}

impl Json for str {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_char('"')?;
        for c in self.chars() {
            match c {
                '"' | '\\' => write!(out, "\\{c}")?,
                // All of them lie below U+10000. A terminal would act on some.
                c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
                c => out.write_char(c)?,
            }
        }
        out.write_char('"')
    }
}

impl Json for String {
    fn json(&self, out: &mut dyn Write) -> fmt::Result {
        self.as_str().json(out)
    }
}

macro_rules! as_displayed {
    ($($type:ty),*) => {
        $(impl Json for $type {
            fn json(&self, out: &mut dyn Write) -> fmt::Result {
                write!(out, "{self}")
            }
        })*
    };
}

as_displayed!(bool, i32, u32, u64);
