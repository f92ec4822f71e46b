//! Cutting and pasting in images, for tests that need one which no kernel wrote.

/// One record of an image, where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Offset of its first byte.
    pub at: usize,
    /// Whole length.
    pub length: usize,
    /// Its type.
    pub kind: u32,
}

/// The records of an image in order, up to its tail.
pub fn places(image: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    let mut at = 0;
    while at + 8 <= image.len() {
        let (kind, length) = (u32_at(image, at), u32_at(image, at + 4) as usize);
        assert!(length >= 8, "a record at {at}");
        places.push(Place { at, length, kind });
        at += length;
    }
    places
}

/// The pids of the tree, in its order, of either layout; none if the head of the image is broken.
pub fn pids(image: &[u8]) -> Vec<i32> {
    tree(image).unwrap_or_default()
}

fn tree(image: &[u8]) -> Option<Vec<i32>> {
    // v23 has PIDS under the number that was the tree's, one longer.
    const TREE: u32 = 101;
    const PIDS_LENGTH: usize = 24;
    const ENTRY: usize = 24;
    let number = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let mut rest = image;
    let mut next = || {
        let (kind, length) = (number(rest, 0)?, number(rest, 4)? as usize);
        let record = rest.get(..length).filter(|record| record.len() >= 8)?;
        rest = &rest[length..];
        Some((kind, record))
    };
    let head = loop {
        match next()? {
            (TREE, head) => break head,
            _ => continue,
        }
    };
    let (_, buffer) = next()?;
    if head.len() != PIDS_LENGTH {
        return buffer[8..]
            .chunks(ENTRY)
            .map(|entry| Some(number(entry, 0)? as i32))
            .collect();
    }
    let (first, mut at) = (number(head, 16)?, 8);
    let mut pids = Vec::new();
    while let Some(depth) = number(buffer, at) {
        pids.push(number(buffer, at + 4)? as i32);
        at += 8 + 4 * depth as usize;
    }
    let (_, _) = next()?;
    let (_, entries) = next()?;
    let pid = |entry| {
        pids.get(number(entry, 0)?.checked_sub(first)? as usize)
            .copied()
    };
    entries[8..].chunks(ENTRY).map(pid).collect()
}

/// The first record of a type.
pub fn first(image: &[u8], kind: u32) -> Place {
    let place = places(image).into_iter().find(|place| place.kind == kind);
    place.unwrap_or_else(|| panic!("no record of type {kind}"))
}

/// The image with some bytes replaced by others, of any length.
pub fn splice(image: &[u8], at: usize, removed: usize, inserted: &[u8]) -> Vec<u8> {
    [&image[..at], inserted, &image[at + removed..]].concat()
}

/// A record.
pub fn record(kind: u32, payload: &[u8]) -> Vec<u8> {
    [
        &kind.to_le_bytes(),
        &(payload.len() as u32 + 8).to_le_bytes(),
        payload,
    ]
    .concat()
}

/// The announcement of a v20 FILE object.
pub fn file_announcement(objref: i32) -> Vec<u8> {
    record(6, &words(&[3, objref as u32]))
}

/// The common part of a FILE record; what a type has more goes behind it.
pub fn file(
    kind: u32,
    mode: u32,
    flags: u32,
    credref: i32,
    position: u64,
    more: &[u32],
) -> Vec<u8> {
    let mut payload = words(&[kind, mode, flags, credref as u32]);
    payload.extend(position.to_le_bytes());
    payload.extend([0; 16]);
    payload.extend(words(more));
    record(304, &payload)
}

/// A FILE_NAME.
pub fn name(name: &str) -> Vec<u8> {
    record(303, &[name.as_bytes(), &[0]].concat())
}

/// A FILE_DESC without close-on-exec.
pub fn descriptor(objref: i32, number: i32) -> Vec<u8> {
    record(302, &words(&[objref as u32, number as u32, 0, 0]))
}

/// Changes four bytes.
pub fn set_u32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Reads four bytes.
pub fn u32_at(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes"))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
