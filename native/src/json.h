// JSON as data: small documents, with limits on depth and size.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ghostzoo {

struct Json {
    enum class Type { null, boolean, number, string, array, object };
    Type type = Type::null;
    bool boolean = false;
    double number = 0;
    std::string string;
    std::vector<Json> array;
    std::map<std::string, Json> object;

    const Json* find(const std::string& key) const {
        auto found = object.find(key);
        return found == object.end() ? nullptr : &found->second;
    }
};

// Throws std::invalid_argument where `text` is no JSON, or has a key twice in one object.
Json parse_json(std::string_view text);

}  // namespace ghostzoo
