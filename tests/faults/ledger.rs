//! The service's ledger, harmed.

use std::path::Path;

use crate::fixture::{Dice, size};
use crate::support::{Said, pipeline, run};

fn verify(data: &Path) -> Said {
    run(pipeline().args(["verify", "--ledger"]).arg(data))
}

#[test]
fn a_harmed_ledger_is_told_and_nothing_crashes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    assert_eq!(verify(&data).code, Some(2));
    for number in 0..20 {
        let mut token = pipeline();
        token.args(["token", "create", "--data"]).arg(&data).arg(format!("token{number}"));
        let said = run(&mut token);
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    let said = verify(&data);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let path = data.join("service/ledger.sqlite");
    let whole = std::fs::read(&path).unwrap();
    let mut dice = Dice::new(3);
    let (mut cut, mut flipped) = (0, 0);
    for _ in 0..size("CORPUSMITH_DAMAGES", 40) / 2 {
        let bytes = dice.below(whole.len());
        std::fs::write(&path, &whole[..bytes]).unwrap();
        let said = verify(&data);
        // A file cut to nothing is an empty database.
        assert_eq!(said.code, Some(1), "cut to {bytes} bytes: {}", said.out);
        assert!(said.out.contains("ledger.sqlite") && said.out.contains("backup"), "{}", said.out);
        cut += 1;
        let mut other = whole.clone();
        let at = dice.below(whole.len() / 4096) * 4096;
        other[at..at + 512].iter_mut().for_each(|byte| *byte = !*byte);
        std::fs::write(&path, other).unwrap();
        let said = verify(&data);
        assert!(matches!(said.code, Some(0 | 1)), "{}", said.err);
        assert!(!said.err.contains("panicked"), "{}", said.err);
        flipped += usize::from(said.code == Some(1));
    }
    eprintln!("{cut} cut, all found; of as many overwritten in the first sector of a page {flipped} found");
    assert!(flipped * 10 >= cut * 8, "overwritten pages are not found: {flipped} of {cut}");
}
