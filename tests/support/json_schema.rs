//! As much of JSON Schema (2020-12) as docs/schema/telehub-v1.schema.json uses. A keyword that is
//! not known here fails the test, so that none is believed unchecked.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use serde_json::Value;

pub struct Schema(pub Value);

impl Schema {
    /// What is wrong with a document, by the definition of this name; `None`: nothing.
    pub fn fault(&self, definition: &str, document: &Value) -> Option<String> {
        self.check(&self.0["$defs"][definition], document, "")
    }

    fn check(&self, schema: &Value, document: &Value, at: &str) -> Option<String> {
        let schema = schema.as_object().expect("a schema is an object");
        schema
            .iter()
            .find_map(|(keyword, rule)| self.keyword(keyword, rule, document, at))
    }

    fn keyword(&self, keyword: &str, rule: &Value, document: &Value, at: &str) -> Option<String> {
        let wrong = |is: bool| (!is).then(|| format!("{at}: {keyword} {rule}"));
        let number = |rule: &Value| rule.as_f64().unwrap();
        let length = |text: &str| text.chars().count() as u64;
        match keyword {
            "description" => None,
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                self.check(&self.0["$defs"][name], document, at)
            }
            "anyOf" => {
                let all = rule.as_array().unwrap();
                let fits = |one: &Value| self.check(one, document, at).is_none();
                wrong(all.iter().any(fits))
            }
            "enum" => wrong(rule.as_array().unwrap().contains(document)),
            "type" => {
                let types = match rule {
                    Value::Array(types) => types.clone(),
                    one => vec![one.clone()],
                };
                wrong(types.iter().any(|one| is(one.as_str().unwrap(), document)))
            }
            "minimum" => wrong(document.as_f64().is_none_or(|value| value >= number(rule))),
            "maximum" => wrong(document.as_f64().is_none_or(|value| value <= number(rule))),
            "exclusiveMaximum" => wrong(document.as_f64().is_none_or(|value| value < number(rule))),
            "minLength" => wrong(
                document
                    .as_str()
                    .is_none_or(|text| length(text) >= rule.as_u64().unwrap()),
            ),
            "maxLength" => wrong(
                document
                    .as_str()
                    .is_none_or(|text| length(text) <= rule.as_u64().unwrap()),
            ),
            "minItems" | "maxItems" => {
                let bound = usize::try_from(rule.as_u64().unwrap()).unwrap();
                let fits = |items: &Vec<Value>| match keyword {
                    "minItems" => items.len() >= bound,
                    _ => items.len() <= bound,
                };
                wrong(document.as_array().is_none_or(fits))
            }
            "items" => {
                let items = document.as_array().into_iter().flatten().enumerate();
                let mut faults =
                    items.map(|(n, item)| self.check(rule, item, &format!("{at}/{n}")));
                faults.find_map(|fault| fault)
            }
            "required" => {
                let keys = rule.as_array().unwrap();
                let has = |key: &Value| document.get(key.as_str().unwrap()).is_some();
                wrong(!document.is_object() || keys.iter().all(has))
            }
            "properties" => {
                let fields = rule.as_object().unwrap().iter();
                let mut faults = fields.map(|(key, rule)| {
                    let value = document.get(key)?;
                    self.check(rule, value, &format!("{at}/{key}"))
                });
                faults.find_map(|fault| fault)
            }
            // Stands beside `properties` with one kind.
            "additionalProperties" => {
                wrong(document.as_object().is_none_or(|map| map.len() <= 1) && rule == false)
            }
            other => panic!("{other} is not known to this test"),
        }
    }
}

fn is(name: &str, document: &Value) -> bool {
    match name {
        "null" => document.is_null(),
        "boolean" => document.is_boolean(),
        "string" => document.is_string(),
        "number" => document.is_number(),
        "integer" => document.as_f64().is_some_and(|value| value.fract() == 0.0),
        "array" => document.is_array(),
        "object" => document.is_object(),
        other => panic!("no type {other}"),
    }
}
