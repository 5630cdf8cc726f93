//! Pages of lists: `?limit&cursor` selects one, and `{items, nextCursor}` is its response.
//!
//! A cursor holds the sort key of the last item of a page (keyset pagination), so that items which are inserted
//! or removed meanwhile neither repeat nor hide others. Cursors are opaque to clients.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use super::ApiError;

/// Largest number of items of a page.
const MAX_LIMIT: u32 = 200;
/// Number of items of a page if the request names none.
const DEFAULT_LIMIT: u32 = 50;
/// Longest cursor, in bytes.
const MAX_CURSOR_LENGTH: usize = 1024;

/// Parameters of the query that select a page.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Largest number of items, from 1 to 200. Default 50.
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before. The first page without it.
    pub cursor: Option<String>,
}

/// The page to read: `limit` items whose sort key follows `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest<K> {
    /// Largest number of items.
    pub limit: usize,
    /// Sort key of the last item of the page before; `None` for the first page.
    pub after: Option<K>,
}

impl PageQuery {
    /// Checks the parameters, and decodes the sort key.
    ///
    /// # Errors
    ///
    /// 400 with the code `invalid_query` that names the parameter.
    pub fn check<K: DeserializeOwned>(self) -> Result<PageRequest<K>, ApiError> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            let message =
                format!("query parameter limit: {limit} is out of bounds; accepted: 1 to {MAX_LIMIT}");
            return Err(ApiError::bad_request("invalid_query", message));
        }
        let after = match self.cursor {
            Some(cursor) => Some(decode(&cursor).ok_or_else(|| {
                let message =
                    "query parameter cursor is invalid; accepted: the nextCursor of the page before";
                ApiError::bad_request("invalid_query", message)
            })?),
            None => None,
        };
        Ok(PageRequest { limit: limit as usize, after })
    }
}

fn decode<K: DeserializeOwned>(cursor: &str) -> Option<K> {
    if cursor.len() > MAX_CURSOR_LENGTH {
        return None;
    }
    serde_json::from_slice(&BASE64URL_NOPAD.decode(cursor.as_bytes()).ok()?).ok()
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// Items, in the order of the list.
    pub items: Vec<T>,
    /// Cursor of the next page; null after the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Creates a page from up to `limit + 1` items: the additional one shows that there is a next page.
    pub fn new<K: Serialize>(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> K) -> Self {
        let is_last = items.len() <= limit;
        items.truncate(limit);
        let encode = |item: &T| {
            let key = serde_json::to_vec(&key(item)).expect("sort keys are texts and numbers");
            BASE64URL_NOPAD.encode(&key)
        };
        let next_cursor = items.last().filter(|_| !is_last).map(encode);
        Self { items, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Reads a page of a sorted list, as a database does.
    fn read(list: &BTreeSet<u32>, limit: u32, cursor: Option<String>) -> Page<u32> {
        let PageRequest { limit, after } = PageQuery { limit: Some(limit), cursor }.check().unwrap();
        let following = list.iter().copied().filter(|item| after.is_none_or(|after| *item > after));
        Page::new(following.take(limit + 1).collect(), limit, |item| *item)
    }

    #[test]
    fn invalid_parameters_are_named() {
        let error = |limit, cursor: Option<&str>| {
            let query = PageQuery { limit, cursor: cursor.map(str::to_owned) };
            query.check::<u32>().unwrap_err().message().to_owned()
        };
        for limit in [0, 201, u32::MAX] {
            let expected = format!("query parameter limit: {limit} is out of bounds; accepted: 1 to 200");
            assert_eq!(error(Some(limit), None), expected);
        }
        for cursor in ["", "a", "!", "ImEi", &"A".repeat(2000)] {
            assert!(error(None, Some(cursor)).starts_with("query parameter cursor is invalid"), "{cursor}");
        }
    }

    proptest! {
        #[test]
        fn items_that_are_there_all_the_time_are_listed_once(
            lasting in prop::collection::btree_set(0_u32..1000, 0..60),
            changes in prop::collection::vec((0_u32..1000, any::<bool>()), 0..60),
            limit in 1_u32..20,
        ) {
            let mut list = lasting.clone();
            let mut listed = Vec::new();
            let mut cursor = None;
            let mut changes = changes.into_iter().filter(|(item, _)| !lasting.contains(item));
            loop {
                let page = read(&list, limit, cursor);
                prop_assert!(page.items.len() <= limit as usize);
                listed.extend(page.items);
                let Some(next) = page.next_cursor else { break };
                cursor = Some(next);
                for (item, is_inserted) in changes.by_ref().take(3) {
                    if is_inserted { list.insert(item); } else { list.remove(&item); }
                }
            }
            prop_assert!(listed.is_sorted_by(|a, b| a < b), "{listed:?}");
            prop_assert!(lasting.iter().all(|item| listed.contains(item)));
        }
    }
}
