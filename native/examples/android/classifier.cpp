// The native half of Classifier.java.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <ghostzoo/ghostzoo.hpp>
#include <jni.h>

namespace {

ghostzoo::Classifier& from(jlong handle) { return *reinterpret_cast<ghostzoo::Classifier*>(handle); }

// C++ exceptions must not reach Java's machine.
template <class Result, class Work> Result guarded(JNIEnv* java, Result otherwise, Work work) {
    try {
        return work();
    } catch (const std::exception& error) {
        if (!java->ExceptionCheck()) java->ThrowNew(java->FindClass("java/lang/RuntimeException"), error.what());
        return otherwise;
    }
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_org_ghostzoo_Classifier_open(JNIEnv* java, jclass, jstring path) {
    return guarded(java, jlong(0), [&] {
        const char* text = java->GetStringUTFChars(path, nullptr);
        const std::string bundle = text ? text : "";
        if (text) java->ReleaseStringUTFChars(path, text);
        return reinterpret_cast<jlong>(new ghostzoo::Classifier(ghostzoo::Classifier::open(bundle)));
    });
}

JNIEXPORT jobjectArray JNICALL Java_org_ghostzoo_Classifier_classify(
    JNIEnv* java, jclass, jlong handle, jintArray argb, jint width, jint height, jint count
) {
    return guarded(java, jobjectArray(nullptr), [&] {
        std::vector<jint> pixels(static_cast<size_t>(java->GetArrayLength(argb)));
        java->GetIntArrayRegion(argb, 0, static_cast<jsize>(pixels.size()), pixels.data());
        std::vector<uint8_t> rgb;
        rgb.reserve(3 * pixels.size());
        for (const jint pixel : pixels)
            for (int shift : {16, 8, 0}) rgb.push_back(static_cast<uint8_t>(pixel >> shift));
        const auto classes = from(handle).classify(rgb.data(), width, height, static_cast<size_t>(count < 0 ? 0 : count));
        const auto result = java->NewObjectArray(static_cast<jsize>(classes.size()), java->FindClass("java/lang/String"), nullptr);
        for (size_t i = 0; result && i < classes.size(); i++) {
            char score[32];
            std::snprintf(score, sizeof score, " %.3f", static_cast<double>(classes[i].score));
            java->SetObjectArrayElement(result, static_cast<jsize>(i), java->NewStringUTF((classes[i].label + score).c_str()));
        }
        return result;
    });
}

JNIEXPORT void JNICALL Java_org_ghostzoo_Classifier_close(JNIEnv*, jclass, jlong handle) {
    delete reinterpret_cast<ghostzoo::Classifier*>(handle);
}

}
