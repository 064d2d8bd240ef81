#include <algorithm>
#include <cctype>
#include <cstring>
#include <memory>
#include <string>

#include "error.h"
#include "image.h"

#if defined(GHOSTZOO_JPEG)
#include <csetjmp>
#include <cstdio>
#include <jpeglib.h>
#endif
#if defined(GHOSTZOO_PNG)
#include <png.h>
#endif

namespace ghostzoo {
namespace {

[[noreturn]] void refuse(const std::string& reason) { throw Failure(GHOSTZOO_BAD_IMAGE, "The image " + reason + "."); }

void check_size(long width, long height) {
    if (width < 1 || height < 1) refuse("has no pixels");
    if (width > kMaxImagePixels || height > kMaxImagePixels / width) refuse("has " + std::to_string(width) + " x " + std::to_string(height) + " pixels, which is more than is read");
}

// Binary PPM of 8 bits.
Image decode_ppm(std::string_view file) {
    size_t at = 2;
    auto number = [&] {
        while (at < file.size() && (std::isspace(static_cast<unsigned char>(file[at])) || file[at] == '#')) {
            if (file[at] == '#')
                while (at < file.size() && file[at] != '\n') at++;
            else at++;
        }
        long value = 0;
        const size_t start = at;
        while (at < file.size() && std::isdigit(static_cast<unsigned char>(file[at])) && value <= kMaxImagePixels) value = value * 10 + (file[at++] - '0');
        if (at == start) refuse("is a damaged PPM");
        return value;
    };
    const long width = number(), height = number(), most = number();
    check_size(width, height);
    if (most != 255) refuse("is a PPM whose largest value is not 255");
    at++;
    const size_t size = static_cast<size_t>(width) * height * 3;
    if (at > file.size() || file.size() - at < size) refuse("is truncated");
    Image image{static_cast<int>(width), static_cast<int>(height), {}};
    image.rgb.assign(file.begin() + at, file.begin() + at + size);
    return image;
}

#if defined(GHOSTZOO_JPEG)

// The orientation in the EXIF block of a JPEG, 1 to 8; 1 where there is none.
int exif_orientation(const unsigned char* data, size_t size) {
    if (size < 14 || std::memcmp(data, "Exif\0\0", 6) != 0) return 1;
    data += 6;
    size -= 6;
    const bool little = data[0] == 'I';
    if (std::memcmp(data, little ? "II" : "MM", 2) != 0) return 1;
    auto read = [&](size_t at, int bytes) {
        unsigned long value = 0;
        for (int i = 0; i < bytes; i++) value |= static_cast<unsigned long>(data[at + i]) << 8 * (little ? i : bytes - 1 - i);
        return value;
    };
    const size_t directory = read(4, 4);
    if (read(2, 2) != 42 || directory > size - 2) return 1;
    const size_t entries = read(directory, 2);
    for (size_t i = 0; i < entries && directory + 2 + 12 * (i + 1) <= size; i++) {
        const size_t entry = directory + 2 + 12 * i;
        if (read(entry, 2) != 0x112) continue;
        const unsigned long type = read(entry + 2, 2), value = type == 3 ? read(entry + 8, 2) : type == 4 ? read(entry + 8, 4) : 1;
        return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
    return 1;
}

Image oriented(Image image, int orientation) {
    if (orientation == 1) return image;
    const bool across = orientation > 4;
    Image result{across ? image.height : image.width, across ? image.width : image.height, {}};
    result.rgb.resize(image.rgb.size());
    const int w = image.width, h = image.height;
    for (int y = 0; y < result.height; y++)
        for (int x = 0; x < result.width; x++) {
            int sx = across ? y : x, sy = across ? x : y;
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) sx = w - 1 - sx;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) sy = h - 1 - sy;
            std::memcpy(&result.rgb[(static_cast<size_t>(y) * result.width + x) * 3], &image.rgb[(static_cast<size_t>(sy) * w + sx) * 3], 3);
        }
    return result;
}

constexpr int kMaxScans = 100;

struct JpegErrors {
    jpeg_error_mgr manager;
    jmp_buf back;
    char reason[JMSG_LENGTH_MAX];
};
void jpeg_failed(j_common_ptr info) {
    auto* errors = reinterpret_cast<JpegErrors*>(info->err);
    info->err->format_message(info, errors->reason);
    longjmp(errors->back, 1);
}
void jpeg_warned(j_common_ptr info, int level) {
    if (level < 0) jpeg_failed(info);  // damaged data, which libjpeg would fill with grey
}

// A few kilobytes of empty scans can cost minutes.
void limit_scans(j_common_ptr info) {
    if (info->is_decompressor && reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
        std::strcpy(reinterpret_cast<JpegErrors*>(info->err)->reason, "too many scans");
        longjmp(reinterpret_cast<JpegErrors*>(info->err)->back, 1);
    }
}

// Frees what libjpeg holds however the function is left; begun before the place that a failure jumps back to.
struct Decompressor {
    jpeg_decompress_struct info{};
    ~Decompressor() { jpeg_destroy_decompress(&info); }
};

Image decode_jpeg(std::string_view file) {
    Decompressor decompressor;
    jpeg_decompress_struct& info = decompressor.info;
    JpegErrors errors;
    jpeg_progress_mgr progress;
    const auto held = std::make_unique<Image>();
    Image& image = *held;
    volatile int orientation = 1;
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = jpeg_failed;
    errors.manager.emit_message = jpeg_warned;
    // No object with a destructor begins between here and the end: a failure jumps over it.
    if (setjmp(errors.back)) refuse(std::string("is a damaged JPEG (") + errors.reason + ")");
    jpeg_create_decompress(&info);
    progress.progress_monitor = limit_scans;
    info.progress = &progress;
    info.mem->max_memory_to_use = 1L << 30;
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(file.data()), static_cast<unsigned long>(file.size()));
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&info, TRUE);
    for (jpeg_saved_marker_ptr marker = info.marker_list; marker; marker = marker->next)
        if (marker->marker == JPEG_APP0 + 1 && orientation == 1) orientation = exif_orientation(marker->data, marker->data_length);
    if (static_cast<long>(info.image_width) > kMaxImagePixels / std::max<long>(1, info.image_height) || (info.jpeg_color_space != JCS_YCbCr && info.jpeg_color_space != JCS_GRAYSCALE && info.jpeg_color_space != JCS_RGB))
        refuse("has too many pixels, or is a JPEG in other colours than RGB, YCbCr and grey");
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    image.width = static_cast<int>(info.output_width);
    image.height = static_cast<int>(info.output_height);
    image.rgb.resize(static_cast<size_t>(image.width) * image.height * 3);
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = image.rgb.data() + static_cast<size_t>(info.output_scanline) * image.width * 3;
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
    return oriented(std::move(image), orientation);
}

#endif
#if defined(GHOSTZOO_PNG)

Image decode_png(std::string_view file) {
    png_image info;
    std::memset(&info, 0, sizeof info);
    info.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_memory(&info, file.data(), file.size())) refuse(std::string("is a damaged PNG (") + info.message + ")");
    if (info.width > static_cast<unsigned long>(kMaxImagePixels) || info.height > static_cast<unsigned long>(kMaxImagePixels) / std::max(1u, info.width)) {
        png_image_free(&info);
        refuse("has too many pixels");
    }
    // Colour below transparency is kept, as ghostzoo's Python package keeps it: alpha is read, and dropped.
    info.format = PNG_FORMAT_RGBA;
    std::vector<uint8_t> rgba(PNG_IMAGE_SIZE(info));
    if (!png_image_finish_read(&info, nullptr, rgba.data(), 0, nullptr)) refuse(std::string("is a damaged PNG (") + info.message + ")");
    Image image{static_cast<int>(info.width), static_cast<int>(info.height), {}};
    image.rgb.resize(rgba.size() / 4 * 3);
    for (size_t i = 0; i < rgba.size() / 4; i++) std::memcpy(&image.rgb[3 * i], &rgba[4 * i], 3);
    return image;
}

#endif

bool begins(std::string_view file, std::string_view with) { return file.substr(0, with.size()) == with; }

}  // namespace

const char* decoded_formats() {
    return ""
#if defined(GHOSTZOO_JPEG)
        "JPEG, "
#endif
#if defined(GHOSTZOO_PNG)
        "PNG, "
#endif
        "PPM";
}

Image decode(std::string_view file) {
    if (begins(file, "P6")) return decode_ppm(file);
#if defined(GHOSTZOO_JPEG)
    if (begins(file, "\xff\xd8\xff")) return decode_jpeg(file);
#endif
#if defined(GHOSTZOO_PNG)
    if (begins(file, "\x89PNG\r\n\x1a\n")) return decode_png(file);
#endif
    throw Failure(GHOSTZOO_UNSUPPORTED, std::string("The image is in none of the formats that this build reads: ") + decoded_formats() + ".");
}

}  // namespace ghostzoo
