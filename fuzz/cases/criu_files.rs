//! How an input has the files of a CRIU image: each as a length in two bytes and
//! so many bytes. An empty one is missing.

use std::collections::BTreeMap;

type Files = BTreeMap<String, Vec<u8>>;

/// Their names, in their order.
const NAMES: [&str; 12] = [
    "inventory.img",
    "pstree.img",
    "ids-100.img",
    "ids-101.img",
    "files.img",
    "fdinfo-1.img",
    "fdinfo-2.img",
    "sk-queues.img",
    "filelocks.img",
    "remap-fpath.img",
    "mm-100.img",
    "tcp-stream-7.img",
];

pub fn files(mut input: &[u8]) -> Files {
    let mut files = Files::new();
    for name in NAMES {
        let Some((length, rest)) = input.split_first_chunk::<2>() else {
            break;
        };
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        if !bytes.is_empty() {
            files.insert(name.to_owned(), bytes.to_vec());
        }
        input = rest;
    }
    files
}

pub fn input(files: &Files) -> Vec<u8> {
    let mut input = Vec::new();
    for name in NAMES {
        let bytes = files.get(name).map_or(&[][..], |bytes| &bytes[..]);
        input.extend((bytes.len() as u16).to_le_bytes());
        input.extend_from_slice(bytes);
    }
    input
}
