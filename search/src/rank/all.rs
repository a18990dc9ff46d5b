//! Pages with every one of the terms.

use tantivy::TERMINATED;

use super::cursor::Cursor;
use super::top::{Admit, ShardTop};

/// Offers every page that has all terms and may be among the best to `best`: reads the rarest
/// term's postings and looks the others up, the rarer first.
pub(super) fn rank(mut cursors: Vec<Cursor>, best: &mut ShardTop, admit: Admit) {
    cursors.sort_by_key(Cursor::pages);
    let Some((lead, others)) = cursors.split_first_mut() else {
        return;
    };
    let others_bound: u32 = others.iter().map(|cursor| cursor.bound()).sum();
    let mut page = lead.page();
    'pages: while page != TERMINATED {
        let mut sum = lead.score();
        if sum + others_bound < best.least() {
            page = lead.advance();
            continue;
        }
        for cursor in &mut *others {
            let found = cursor.seek(page);
            if found != page {
                page = lead.seek(found);
                continue 'pages;
            }
            sum += cursor.score();
        }
        best.offer(page, sum, admit);
        page = lead.advance();
    }
}
