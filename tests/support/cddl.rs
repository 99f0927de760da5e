//! As much of CDDL (RFC 8610) as docs/schema/telehub-v1.cddl uses: rules, choices, maps with
//! optional and wildcard members, arrays, literals, tags, `.size` of a range.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_cbor::Value;

#[derive(Debug, Clone)]
enum Type {
    Named(String),
    Text(String),
    Integer(i128),
    Choice(Vec<Type>),
    Map(Vec<Member>),
    /// As many of one as there are, at least so many.
    Many(usize, Box<Type>),
    List(Vec<Type>),
    Tag(u64, Box<Type>),
    Size(Box<Type>, usize, usize),
}

#[derive(Debug, Clone)]
enum Occurs {
    Once,
    Maybe,
    AnyNumber,
}

#[derive(Debug, Clone)]
struct Member {
    occurs: Occurs,
    key: Type,
    value: Type,
}

pub struct Cddl(BTreeMap<String, Type>);

impl Cddl {
    pub fn parse(text: &str) -> Self {
        let mut parser = Parser {
            tokens: tokens(text),
            at: 0,
        };
        let mut rules = BTreeMap::new();
        while parser.at < parser.tokens.len() {
            let name = parser.next();
            parser.expect("=");
            let rule = parser.choice();
            assert!(rules.insert(name.clone(), rule).is_none(), "{name} twice");
        }
        Self(rules)
    }

    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether an item is what the rule says.
    pub fn matches(&self, rule: &str, item: &Value) -> bool {
        let rule = Type::Named(rule.to_owned());
        self.is(&rule, item)
    }

    fn is(&self, rule: &Type, item: &Value) -> bool {
        match (rule, item) {
            (Type::Named(name), item) => match (name.as_str(), item) {
                ("any", _)
                | ("null", Value::Null)
                | ("bool", Value::Bool(_))
                | ("tstr", Value::Text(_))
                | ("bstr", Value::Bytes(_))
                | ("int", Value::Integer(_))
                | ("float", Value::Float(_)) => true,
                ("uint", Value::Integer(value)) => *value >= 0,
                (name, item) => self.0.get(name).is_some_and(|rule| self.is(rule, item)),
            },
            (Type::Text(text), Value::Text(item)) => text == item,
            (Type::Integer(value), Value::Integer(item)) => value == item,
            (Type::Choice(types), item) => types.iter().any(|one| self.is(one, item)),
            (Type::Map(members), Value::Map(map)) => self.is_map(members, map),
            (Type::Many(least, one), Value::Array(items)) => {
                items.len() >= *least && items.iter().all(|item| self.is(one, item))
            }
            (Type::List(types), Value::Array(items)) => {
                types.len() == items.len()
                    && types
                        .iter()
                        .zip(items)
                        .all(|(one, item)| self.is(one, item))
            }
            (Type::Tag(tag, inner), Value::Tag(found, item)) => {
                tag == found && self.is(inner, item)
            }
            (Type::Size(inner, least, most), item) => {
                let size = match item {
                    Value::Text(text) => text.len(),
                    Value::Bytes(bytes) => bytes.len(),
                    _ => return false,
                };
                self.is(inner, item) && (*least..=*most).contains(&size)
            }
            _ => false,
        }
    }

    fn is_map(&self, members: &[Member], map: &BTreeMap<Value, Value>) -> bool {
        let named = |key: &Value| {
            members.iter().find(|member| {
                !matches!(member.occurs, Occurs::AnyNumber) && self.is(&member.key, key)
            })
        };
        let wild = |key: &Value, value: &Value| {
            members.iter().any(|member| {
                matches!(member.occurs, Occurs::AnyNumber)
                    && self.is(&member.key, key)
                    && self.is(&member.value, value)
            })
        };
        let fit = map.iter().all(|(key, value)| match named(key) {
            Some(member) => self.is(&member.value, value),
            None => wild(key, value),
        });
        let there = |member: &Member| map.keys().any(|key| self.is(&member.key, key));
        fit && members
            .iter()
            .all(|member| !matches!(member.occurs, Occurs::Once) || there(member))
    }
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        loop {
            rest = rest.trim_start();
            if rest.is_empty() || rest.starts_with(';') {
                break;
            }
            let length = if let Some(quoted) = rest.strip_prefix('"') {
                quoted.find('"').unwrap() + 2
            } else if rest.starts_with("=>") || rest.starts_with("..") || rest.starts_with("1*") {
                2
            } else {
                let word = |c: char| c.is_alphanumeric() || "-_#".contains(c);
                let mut length = rest.find(|c| !word(c)).unwrap_or(rest.len());
                if rest.starts_with("#6.") || rest.starts_with(".size") {
                    length = 1 + rest[1..]
                        .find(|c: char| !c.is_alphanumeric() && c != '.')
                        .unwrap_or(rest.len() - 1);
                }
                length.max(1)
            };
            tokens.push(rest[..length].to_owned());
            rest = &rest[length..];
        }
    }
    tokens
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens[self.at - 1].clone()
    }

    fn eat(&mut self, token: &str) -> bool {
        let there = self.peek() == token;
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, token: &str) {
        let found = self.next();
        assert_eq!(found, token, "at token {}", self.at);
    }

    fn choice(&mut self) -> Type {
        let mut types = vec![self.one()];
        while self.eat("/") {
            types.push(self.one());
        }
        match types.len() {
            1 => types.remove(0),
            _ => Type::Choice(types),
        }
    }

    fn one(&mut self) -> Type {
        let one = self.primary();
        if !self.eat(".size") {
            return one;
        }
        self.expect("(");
        let least = self.next().parse().unwrap();
        self.expect("..");
        let most = self.next().parse().unwrap();
        self.expect(")");
        Type::Size(Box::new(one), least, most)
    }

    fn primary(&mut self) -> Type {
        let token = self.next();
        if let Some(text) = token.strip_prefix('"') {
            return Type::Text(text.trim_end_matches('"').to_owned());
        }
        if let Ok(value) = token.parse() {
            return Type::Integer(value);
        }
        if let Some(tag) = token.strip_prefix("#6.") {
            self.expect("(");
            let inner = self.choice();
            self.expect(")");
            return Type::Tag(tag.parse().unwrap(), Box::new(inner));
        }
        match token.as_str() {
            "{" => self.map(),
            "[" => self.array(),
            name => {
                assert!(
                    name.chars().all(|c| c.is_alphanumeric() || c == '-'),
                    "{name}"
                );
                Type::Named(name.to_owned())
            }
        }
    }

    fn map(&mut self) -> Type {
        let mut members = Vec::new();
        while !self.eat("}") {
            let occurs = if self.eat("?") {
                Occurs::Maybe
            } else if self.eat("*") {
                Occurs::AnyNumber
            } else {
                Occurs::Once
            };
            let key = self.one();
            self.expect("=>");
            let value = self.choice();
            members.push(Member { occurs, key, value });
            self.eat(",");
        }
        Type::Map(members)
    }

    fn array(&mut self) -> Type {
        if self.eat("1*") {
            let one = self.choice();
            self.expect("]");
            return Type::Many(1, Box::new(one));
        }
        let mut types = Vec::new();
        while !self.eat("]") {
            types.push(self.choice());
            self.eat(",");
        }
        Type::List(types)
    }
}
