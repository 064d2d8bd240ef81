#include "bundle.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <sys/stat.h>
#if defined(_WIN32)
#include <filesystem>
#endif

#include "error.h"
#include "json.h"
#include "sha256.h"

namespace ghostzoo {
namespace {

// As in ghostzoo's Python package, bundle/manifest.py.
constexpr int kFormatVersion = 3;  // 2 has multi_label, 3 a calibration
constexpr uintmax_t kMaxBytes = 512 << 20, kMaxJson = 64 << 20;
constexpr uintmax_t kMaxManifest = 4 << 20;
constexpr size_t kMaxClasses = 65536;
constexpr double kMaxPixels = 1024, kMaxTemperature = 100;
constexpr double kBilinear = 2, kBicubic = 3;  // Pillow's constants
constexpr char kManifest[] = "ghostzoo.json", kConfig[] = "config.json", kPreprocessor[] = "preprocessor_config.json";
constexpr char kModel[] = "onnx/model.onnx";
constexpr char kSingle[] = "single_label_classification", kSeveral[] = "multi_label_classification";

class Reader {
public:
    explicit Reader(const std::string& path) : path_(path) {}

    Bundle read() {
        const Json manifest = json(kManifest, file(kManifest, kMaxManifest));
        const Json* version = manifest.find("format_version");
        if (!version || version->type != Json::Type::number || !(version->number >= 1) || version->number != std::floor(version->number)) refuse(std::string(kManifest) + " has no format_version");
        if (version->number > kFormatVersion) refuse("it has a newer format than this library reads");
        const Json* name = manifest.find("name");
        if (!name || name->type != Json::Type::string) refuse(std::string(kManifest) + " has no name");
        files_ = manifest.find("files");
        if (!files_ || files_->type != Json::Type::object) refuse(std::string(kManifest) + " lists no files");
        Bundle bundle;
        bundle.name = name->string;
        const Json config = json(kConfig, listed(kConfig, kMaxJson));
        bundle.labels = labels(config);
        bundle.multi_label = multi_label(manifest, config);
        bundle.temperature = temperature(manifest);
        bundle.preprocessing = preprocessing(json(kPreprocessor, listed(kPreprocessor, kMaxJson)));
        bundle.model = listed(kModel, kMaxBytes);
        return bundle;
    }

private:
    [[noreturn]] void refuse(const std::string& reason, ghostzoo_status status = GHOSTZOO_BAD_BUNDLE) const {
        throw Failure(status, "Bundle " + path_ + ": " + reason + ".");
    }

    std::string file(const std::string& name, uintmax_t most) const {
        const std::string path = path_ + "/" + name;
#if defined(_WIN32)
        const std::wstring wide = std::filesystem::u8path(path).wstring();
        struct _stat64 found;
        const bool regular = _wstat64(wide.c_str(), &found) == 0 && (found.st_mode & _S_IFREG);
        auto open = [&] { return _wfopen(wide.c_str(), L"rb"); };
#else
        struct stat found;
        const bool regular = stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
        auto open = [&] { return std::fopen(path.c_str(), "rb"); };
#endif
        if (!regular) refuse("there is no file " + name, GHOSTZOO_NOT_FOUND);
        const auto size = static_cast<uintmax_t>(found.st_size);
        if (size > most) refuse(name + " is larger than it may be");
        const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(open(), std::fclose);
        std::string content(static_cast<size_t>(size), '\0');
        if (!stream || std::fread(content.data(), 1, content.size(), stream.get()) != content.size() || std::fgetc(stream.get()) != EOF)
            refuse(name + " cannot be read", GHOSTZOO_NOT_FOUND);
        return content;
    }

    std::string listed(const std::string& name, uintmax_t most) const {
        const Json* record = files_->find(name);
        const Json* size = record ? record->find("size") : nullptr;
        const Json* hash = record ? record->find("sha256") : nullptr;
        if (!size || !hash || size->type != Json::Type::number || hash->type != Json::Type::string) refuse(std::string(kManifest) + " does not list " + name);
        if (!(size->number >= 0 && size->number <= static_cast<double>(most))) refuse(name + " has an impossible size");
        const std::string content = file(name, static_cast<uintmax_t>(size->number));
        if (content.size() != static_cast<uintmax_t>(size->number) || sha256(content) != hash->string)
            refuse(name + " is not the file that the manifest lists; download the model again");
        return content;
    }

    Json json(const std::string& name, const std::string& text) const {
        try {
            Json value = parse_json(text);
            if (value.type == Json::Type::object) return value;
        } catch (const std::invalid_argument& error) {
            refuse(name + " is " + error.what());
        }
        refuse(name + " holds no JSON object");
    }

    std::vector<std::string> labels(const Json& config) const {
        const Json* names = config.find("id2label");
        if (!names || names->object.empty() || names->object.size() > kMaxClasses) refuse(std::string(kConfig) + " has no labels");
        std::vector<std::string> result;
        for (size_t i = 0; i < names->object.size(); i++) {
            const Json* label = names->find(std::to_string(i));
            if (!label || label->type != Json::Type::string) refuse(std::string(kConfig) + " has no label " + std::to_string(i));
            result.push_back(label->string);
        }
        return result;
    }

    bool multi_label(const Json& manifest, const Json& config) const {
        const Json *value = manifest.find("multi_label"), *type = config.find("problem_type");
        if (value && value->type != Json::Type::boolean) refuse(std::string(kManifest) + " has a multi_label that is neither true nor false");
        const bool none = !type || type->type == Json::Type::null;
        if (!none && (type->type != Json::Type::string || (type->string != kSingle && type->string != kSeveral)))
            refuse(std::string(kConfig) + " has no possible problem_type");
        const bool several = !none && type->string == kSeveral;
        if (several != (value && value->boolean)) refuse(std::string("only one of ") + kManifest + " and " + kConfig + " says that it is a multi-label model");
        return several;
    }

    float temperature(const Json& manifest) const {
        const Json* calibration = manifest.find("calibration");
        if (!calibration) return 1;
        return static_cast<float>(number(calibration->find("temperature"), "temperature", 1 / kMaxTemperature, kMaxTemperature, kManifest));
    }

    double number(const Json* value, const char* key, double low, double high, const char* name = kPreprocessor) const {
        if (!value || value->type != Json::Type::number || !(value->number >= low && value->number <= high))
            refuse(std::string(name) + " has no possible " + key);
        return value->number;
    }

    Preprocessing preprocessing(const Json& config) const {
        for (const char* step : {"do_resize", "do_center_crop", "do_rescale", "do_normalize"}) {
            const Json* value = config.find(step);
            if (!value || value->type != Json::Type::boolean || !value->boolean) refuse(std::string(kPreprocessor) + " does not say " + step);
        }
        const double resample = number(config.find("resample"), "resample", 0, 5);
        if (resample != kBilinear && resample != kBicubic) refuse(std::string(kPreprocessor) + " asks for another interpolation than bilinear or bicubic");
        auto pixels = [&](const char* group, const char* key) {
            const Json* outer = config.find(group);
            const double value = number(outer ? outer->find(key) : nullptr, group, 1, kMaxPixels);
            if (value != std::floor(value)) refuse(std::string(kPreprocessor) + " has no possible " + group);
            return static_cast<int>(value);
        };
        Preprocessing result;
        result.bicubic = resample == kBicubic;
        result.resize_short = pixels("size", "shortest_edge");
        result.crop_size = pixels("crop_size", "height");
        if (result.crop_size != pixels("crop_size", "width") || result.crop_size > result.resize_short) refuse(std::string(kPreprocessor) + " has no possible crop_size");
        result.rescale_factor = number(config.find("rescale_factor"), "rescale_factor", 1e-9, 1e9);
        const Json *mean = config.find("image_mean"), *std = config.find("image_std");
        if (!mean || mean->array.size() != 3 || !std || std->array.size() != 3) refuse(std::string(kPreprocessor) + " has no mean or deviation of three colours");
        for (size_t i = 0; i < 3; i++) {
            result.mean[i] = number(&mean->array[i], "image_mean", -1e6, 1e6);
            result.std[i] = number(&std->array[i], "image_std", 1e-9, 1e6);
        }
        return result;
    }

    const std::string path_;
    const Json* files_ = nullptr;
};

}  // namespace

Bundle read_bundle(const std::string& path) { return Reader(path).read(); }

}  // namespace ghostzoo
