//! The query of a request's target.

/// Its pairs, as they are written: values with escapes are read by [`Query::decoded`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(super) fn of(query: Option<&'a str>) -> Self {
        Self(query.unwrap_or_default())
    }

    /// The first value of this name that is not empty.
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, value)| *key == name && !value.is_empty())
            .map(|(_, value)| value)
    }

    /// The same with its escapes resolved (`%2F`, and `+` for a space).
    pub(super) fn decoded(self, name: &str) -> Option<String> {
        decode(self.get(name)?)
    }

    /// Every value of this name, with its escapes resolved; those that are no text are left out.
    pub(super) fn every(self, name: &str) -> Vec<String> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let values = pairs.filter(|(key, value)| *key == name && !value.is_empty());
        values.filter_map(|(_, value)| decode(value)).collect()
    }

    /// A time in Unix seconds.
    pub(super) fn time(self, name: &str) -> Result<Option<f64>, String> {
        let parse = |text: &str| {
            let time = text.parse().ok().filter(|time: &f64| !time.is_nan());
            time.ok_or_else(|| format!("{name}={text:?} is no time; write Unix seconds"))
        };
        self.get(name).map(parse).transpose()
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_escapes() {
        let query = Query::of(Some("name=barn%2Ftemp+north%C3%A4&from=5.5&to=x&bad=%zz"));
        assert_eq!(query.decoded("name").as_deref(), Some("barn/temp northä"));
        assert_eq!(query.time("from"), Ok(Some(5.5)));
        assert!(query.time("to").is_err());
        assert_eq!(query.decoded("bad"), None);
        assert_eq!(query.get("none"), None);
        let query = Query::of(Some("device=a&device=b%2Ec&device=&device=%zz&devices=d"));
        assert_eq!(query.every("device"), ["a", "b.c"]);
    }
}
