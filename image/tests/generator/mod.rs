//! Images of our own, written and read without the product's code.

pub mod build;
pub mod check;
pub mod compare;
pub mod meaning;
pub mod recipes;
