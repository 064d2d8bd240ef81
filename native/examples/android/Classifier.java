package org.ghostzoo;

/** Classifies pictures with a bundle folder, such as one that was unpacked from the app's assets into its files. */
public final class Classifier implements AutoCloseable {
    static {
        System.loadLibrary("ghostzoo_jni");
    }

    private long handle;

    /** @throws RuntimeException the folder is no bundle, or cannot be run */
    public Classifier(String bundle) {
        handle = open(bundle);
    }

    /**
     * @param argb pixels as {@code Bitmap.getPixels} gives them, rows from the top
     * @return the best classes, best first, each as "label score"
     */
    public String[] classify(int[] argb, int width, int height, int count) {
        if (handle == 0) throw new IllegalStateException("The classifier was closed.");
        if ((long) width * height != argb.length) throw new IllegalArgumentException("argb has not width * height pixels.");
        return classify(handle, argb, width, height, count);
    }

    @Override
    public void close() {
        close(handle);
        handle = 0;
    }

    private static native long open(String bundle);

    private static native String[] classify(long handle, int[] argb, int width, int height, int count);

    private static native void close(long handle);
}
