#include "json.h"

#include <clocale>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

namespace ghostzoo {
namespace {

constexpr int kMaxDepth = 32;
constexpr int kMaxValues = 1 << 19;  // two for each label of 65,536 classes, and to spare

class Parser {
public:
    explicit Parser(std::string_view text) : text_(text) {}

    Json document() {
        Json value = parse(0);
        skip();
        if (at_ != text_.size()) fail();
        return value;
    }

private:
    [[noreturn]] void fail() const { throw std::invalid_argument("no valid JSON at byte " + std::to_string(at_)); }

    void skip() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) at_++;
    }
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    void expect(char c) {
        if (peek() != c || at_ >= text_.size()) fail();
        at_++;
    }
    bool accept(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }

    Json parse(int depth) {
        if (depth > kMaxDepth || ++values_ > kMaxValues) fail();
        skip();
        Json value;
        const char c = peek();
        if (c == '{') {
            value.type = Json::Type::object;
            at_++;
            skip();
            if (peek() == '}') { at_++; return value; }
            do {
                skip();
                std::string key = string();
                skip();
                expect(':');
                if (!value.object.emplace(std::move(key), parse(depth + 1)).second) fail();
                skip();
            } while (accept(","));
            expect('}');
        } else if (c == '[') {
            value.type = Json::Type::array;
            at_++;
            skip();
            if (peek() == ']') { at_++; return value; }
            do {
                value.array.push_back(parse(depth + 1));
                skip();
            } while (accept(","));
            expect(']');
        } else if (c == '"') {
            value.type = Json::Type::string;
            value.string = string();
        } else if (accept("true")) {
            value.type = Json::Type::boolean;
            value.boolean = true;
        } else if (accept("false")) {
            value.type = Json::Type::boolean;
        } else if (!accept("null")) {
            value.type = Json::Type::number;
            value.number = number();
        }
        return value;
    }

    double number() {
        const size_t start = at_;
        while (at_ < text_.size() && at_ - start < 64 && std::string_view("+-.0123456789eE").find(text_[at_]) != std::string_view::npos) at_++;
        std::string digits(text_.substr(start, at_ - start));
        if (digits.empty() || digits[0] == '+' || digits[0] == '.') fail();
        const size_t point = digits.find('.');
        if (point != std::string::npos) digits.replace(point, 1, std::localeconv()->decimal_point);  // as strtod reads it
        char* end = nullptr;
        const double value = std::strtod(digits.c_str(), &end);
        if (*end || !std::isfinite(value)) fail();
        return value;
    }

    unsigned hex() {
        unsigned value = 0;
        for (int i = 0; i < 4; i++) {
            const char c = peek();
            at_++;
            value = value * 16;
            if (c >= '0' && c <= '9') value += static_cast<unsigned>(c - '0');
            else if (c >= 'a' && c <= 'f') value += static_cast<unsigned>(c - 'a' + 10);
            else if (c >= 'A' && c <= 'F') value += static_cast<unsigned>(c - 'A' + 10);
            else fail();
        }
        return value;
    }

    std::string string() {
        expect('"');
        std::string result;
        while (true) {
            if (at_ >= text_.size()) fail();
            const char c = text_[at_++];
            if (c == '"') return result;
            if (static_cast<unsigned char>(c) < 32) fail();
            if (c != '\\') { result += c; continue; }
            const char escaped = peek();
            at_++;
            switch (escaped) {
                case '"': case '\\': case '/': result += escaped; break;
                case 'b': result += '\b'; break;
                case 'f': result += '\f'; break;
                case 'n': result += '\n'; break;
                case 'r': result += '\r'; break;
                case 't': result += '\t'; break;
                case 'u': append(result); break;
                default: fail();
            }
        }
    }

    void append(std::string& result) {
        unsigned code = hex();
        if (code >= 0xd800 && code < 0xdc00) {
            if (!accept("\\u")) fail();
            const unsigned low = hex();
            if (low < 0xdc00 || low > 0xdfff) fail();
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        } else if (code >= 0xdc00 && code < 0xe000) {
            fail();
        }
        auto put = [&](unsigned byte) { result += static_cast<char>(byte); };
        if (code < 0x80) { put(code); }
        else if (code < 0x800) { put(0xc0 | code >> 6); put(0x80 | (code & 63)); }
        else if (code < 0x10000) { put(0xe0 | code >> 12); put(0x80 | (code >> 6 & 63)); put(0x80 | (code & 63)); }
        else { put(0xf0 | code >> 18); put(0x80 | (code >> 12 & 63)); put(0x80 | (code >> 6 & 63)); put(0x80 | (code & 63)); }
    }

    std::string_view text_;
    size_t at_ = 0;
    int values_ = 0;
};

}  // namespace

Json parse_json(std::string_view text) { return Parser(text).document(); }

}  // namespace ghostzoo
