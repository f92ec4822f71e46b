use ckpt_image::linux_cr::survey::Surveyor;

/// What is learnt, or why nothing is.
fn survey(image: &[u8], piece: usize) -> Result<String, String> {
    let mut surveyor = Surveyor::default();
    for piece in image.chunks(piece.max(1)) {
        surveyor.feed(piece).map_err(|e| e.to_string())?;
    }
    let (survey, layout) = surveyor.finish().map_err(|e| e.to_string())?;
    let listing = survey.listing(layout.as_ref());
    Ok(format!("{listing:?} {:?}", survey.needs()))
}

/// The target.
pub fn run(image: &[u8]) {
    let whole = survey(image, image.len());
    assert_eq!(whole, survey(image, 37));
}
